"""What the lint says of how letters read, seen through the lint."""

from dataclasses import replace
from datetime import date

import pytest

from newsletter.content.files import read_content
from newsletter.content.lint import lint
from newsletter.domain.sequence import Finish, HelpKind, HelpLine, OnFinish, Reviewed, Revision, Sequence, Step

TODAY = date(2026, 11, 23)
PATH = "sequences/trust/01-welcome.md"
FIELD = "\n\n" + "A field with a gate in it.\n\n" * 24  # 168 words that nobody minds
SERVICES = (
    HelpLine(name="Line", kind=HelpKind.CRISIS, hours="24/7", phone="988", checked_on=TODAY),
    HelpLine(name="Text", kind=HelpKind.CRISIS, hours="24/7", text="HELLO to 50808", checked_on=TODAY),
    HelpLine(name="Chat", kind=HelpKind.ABUSE, hours="varies", chat="https://www.chat.example/go", checked_on=TODAY),
)


def revision(*, templates=None, endless=False, sensitive=True, **step):
    letter = Step(
        **{
            "key": "welcome",
            "number": 1,
            "path": PATH,
            "subject": "Before anything else, you set the pace",
            "body": "Hello." + FIELD,
            "body_line": 5,
            "head_lines": {"subject": 2, "preheader": 3, "heading": 4},
            **step,
        }
    )
    series = Sequence(
        key="trust",
        title="Trust",
        steps=(letter,),
        sensitive=sensitive,
        reviewed=Reviewed(by="A", on=TODAY),
        on_finish=OnFinish(finish=Finish.REPEAT if endless else Finish.STOP),
    )
    return Revision(sequences=(series,), help_lines={"*": SERVICES}, templates=templates or {})


def warnings(**step):
    report = lint(revision(**step), countries=(), today=TODAY)
    assert report.errors == (), "a warning is never an error"
    return [str(warning) for warning in report.warnings]


def said(text, **step):
    """What is said of one sentence in a letter that is otherwise sound, below its first two lines."""
    return warnings(body=f"Hello.\n\nA field.\n\n{text}{FIELD}", **step)


SAMPLES = [
    # the sentence, and words of the warning; None where nothing is to be said
    ("Two pills lay on the table.", "leave the means out"),
    ("She took an overdose.", "'overdose', which"),
    ("The pillow lay on the table, and a gunnel beside it.", None),
    ("Somebody in the next street committed suicide.", "not wanting to live"),
    ("When you do not want to live, more help is due.", None),
    ("It is time to forgive them.", "complete position"),
    ("Forgive, and the door opens.", "complete position"),
    ("Forgiveness sets you free.", "complete position"),
    ("You cannot rest until you learn to\nforgive.", "complete position"),
    ("Nobody has to forgive. Not having forgiven is a complete position.", None),
    ("You could forgive yourself for the crumbs.", None),
    ("Call the person who hurt you, and listen.", "leads back"),
    ("Then talk to whoever really harmed you.", "leads back"),
    ("Give him a second chance.", "leads back"),
    ("Nothing here asks you to call the person who hurt you.", None),
    ("Call somebody who makes you laugh.", None),
    ("You could leave him by spring.", "raise a danger"),
    ("Try couples counselling first.", "raise a danger"),
    ("Leave the cup by the sink.", None),
    ("People with this disorder wait.", "sounds like a verdict"),
    ("Yours is an avoidant attachment.", "sounds like a verdict"),
    ("None of this is a diagnosis.", None),
    ("The table was in some disorderly way laid.", None),
    ("You must rest.", "'must', which is an order"),
    ("You need to\nrest first.", "'need to', which is an order"),
    ("You **need** to rest first.", "is an order"),
    ("You must not stop.", "'must', which is an order"),
    ("There is nothing you must do.", None),
    ("You don\u2019t need to answer.", None),
    ("No, you must rest.", "is an order"),  # the "no" is of another clause
    ("It is nothing, but you must rest.", "is an order"),
    ("It must have rained.", None),
    ("They must be missing the bus.", None),
    ("Mustard. A need to rest is a good reason.", None),
    ("You need not stay.", None),
    ("Just breathe.", "makes small"),
    ("It is just a door.", "makes small"),
    ("You could adjust the lamp; justice is another matter.", None),
    ("She rang just before noon, and had just come in.", None),
    ("It was a just cause, and it was just.", None),
    ("Some call this self-care.", "everyday words"),
    ("This is your healing journey.", "'healing journey', which was said"),
    ("With time you will overcome it.", "promises"),
    ("Nobody asks you to let go of it.", None),
    ("The queue moves on.", None),
    ("How good!", "full stop"),
    ("Use `go!` here, {% if letter.number != 1 %}or there{% endif %}.", None),
    ("This is week three of nine.", "counts weeks"),
    ("The next week one letter comes.", "counts weeks"),
    ("You began three weeks ago.", "counts weeks"),
    ("If something happened in the last few weeks, or sleep is bad for weeks, wait until next week or longer.", None),
    ("Good morning.", "another hour"),
    ("A neighbour says good morning, at whatever hour.", None),
    ("Call 988 at any hour.", "looks like a help line"),
    ("Text HELLO to 50808.", "looks like a help line"),
    ("It is [a line](tel:988).", "looks like a help line"),
    ("Ring 01632 960 983.", "looks like a help line"),
    ("Their page is www.chat.example, day and night.", "looks like a help line"),
    ("It has [a page](https://chat.example/go).", "looks like a help line"),
    ("On 2026-11-23 there were 1988 of them, from 1914-1918.", None),
    ("A page at nochat.example, and 12 cups.", None),
    ("{{ help_lines }}{% if letter.number == 988 %}A gate.{% endif %}", None),
    ("For more, [click here](/a).", "say where it leads"),
    ("[Read more](/a)", "say where it leads"),
    ("Or you can [stop here]({{ links.unsubscribe }}).", None),
    ("There is [a post on gates](/just-must-heal).", None),
    ("[One post](/a), [another post](/b).", "more than one thing"),
    ("::: practice Sit | Two minutes\nSit.\n:::\n\n[One post](/a)", "more than one thing"),
    ("::: practice Sit | Two minutes\nSit.\n:::\n\n[Pause]({{ links.pause }})", None),
    ("::: source\nA. Healer (2022), You must just heal! 12, 0123456789, chat.example.\n:::", None),
    ("{{ site.name }}{# you must just heal! #}", None),
    ("field " * 101, "this paragraph has 101 words"),
    ("field " * 100, None),
    ("field " * 60 + "\n- " + "field " * 60, None),
]


@pytest.mark.parametrize(("text", "words"), SAMPLES)
def test_a_sentence_is_warned_of_or_left_alone(text, words):
    found = said(text)

    if words is None:
        assert found == []
    else:
        [warning] = found
        assert warning.startswith(f"{PATH}:")
        assert words in warning


def test_a_warning_names_the_line_on_which_the_words_stand():
    # The letter begins in line 5 of the file, the sentence in line 9.
    [warning] = said("A gate,\nwhich you must\nopen.")

    assert warning == f'{PATH}:10: the letter says \'must\', which is an order; write "you may" or "you could".'


@pytest.mark.parametrize(("place", "line"), [("subject", 2), ("preheader", 3), ("heading", 4)])
def test_words_in_the_head_are_warned_of_with_their_line(place, line):
    [warning] = warnings(**{place: "A secret gate in a field that was mown twice."})

    assert warning.startswith(f"{PATH}:{line}: the {place} says 'secret', which might be read aloud")


@pytest.mark.parametrize(
    ("beginning", "warns"),
    [
        ("Hello,\n\nYou hide the key.", True),
        ("Hello,\n\nA field.\n\nYou hide the key.", False),  # behind the first two lines
        ("Hello,\n\nThe hideous shed, the trustworthy cash.", False),
    ],
)
def test_the_first_two_lines_are_read_as_somebody_looking_on_would(beginning, warns):
    found = warnings(body=beginning + FIELD)

    assert [f"{PATH}:7: the beginning says 'hide'" in warning for warning in found] == [True] * warns


def test_it_is_the_second_ask_that_is_named():
    [warning] = said("[One post](/a)\n\n[another post](/b)")

    assert warning.startswith(f"{PATH}:11: the letter asks for more than one thing")


def test_what_stands_twice_in_a_line_is_said_once_and_on_two_lines_twice():
    assert len(said("You must, you must.")) == 1
    assert len(said("You must,\nyou must.")) == 2


@pytest.mark.parametrize(("length", "warns"), [(29, True), (30, False), (50, False), (51, True)])
def test_a_subject_is_best_read_within_thirty_to_fifty_characters(length, warns):
    assert [warning.startswith(f"{PATH}:2: ") for warning in warnings(subject="a" * length)] == [True] * warns


@pytest.mark.parametrize(("length", "warns"), [(0, False), (39, True), (40, False), (100, False), (101, True)])
def test_a_preheader_is_best_read_within_forty_to_a_hundred_characters_if_there_is_one(length, warns):
    assert [warning.startswith(f"{PATH}:3: ") for warning in warnings(preheader="a" * length)] == [True] * warns


def test_a_subject_with_a_variable_in_it_has_no_length_yet():
    assert warnings(subject="{{ site.name }}") == []


def letter_of(words):
    """A letter of so many words; addresses, variables and sources are none."""
    lines = ["don't " * min(50, words - 1 - done) for done in range(0, words - 1, 50)]
    return "\n\n".join((*lines, "{{ help_lines }}", "[x](/a/path)", "::: source\nA book of many words.\n:::"))


@pytest.mark.parametrize(
    ("kind", "words", "warns"),
    [
        ({}, 149, True),
        ({}, 150, False),
        ({}, 350, False),
        ({}, 351, True),
        ({"endless": True}, 119, True),  # the note that repeats has about 150
        ({"endless": True}, 120, False),
        ({"endless": True}, 351, True),
        ({"sensitive": False}, 2, False),
        ({"sensitive": False}, 600, False),
        ({"sensitive": False}, 601, True),
    ],
)
def test_a_letter_has_as_many_words_as_one_reads_on_a_telephone(kind, words, warns):
    found = warnings(body=letter_of(words), **kind)

    assert [f"{PATH}:5: the letter has {words} words" in warning for warning in found] == [True] * warns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("You must just keep the seeds in the dark!", None),
        ("These leaves are poison, and toxic. Overcome the slugs.", None),
        ("[One post](/a), [another post](/b). Ring 01632 960 983.", None),
        ("You sowed them three weeks ago.", "counts weeks"),
        ("[Click here](/a)", "say where it leads"),
        ("Call 988.", "looks like a help line"),
        ("field " * 101, "this paragraph has 101 words"),
        ("::: practice Dig | An hour\nDig.\n:::\n\n::: practice Sow | An hour\nSow.\n:::", "more than one thing"),
    ],
)
def test_a_series_on_gardening_is_held_to_what_concerns_every_inbox(text, words):
    found = said(text, sensitive=False)

    assert [words in warning for warning in found] == ([] if words is None else [True])


@pytest.mark.parametrize(("sensitive", "count"), [(True, 2), (False, 1)])
def test_a_head_is_calm_in_every_series_and_gives_nobody_away_in_a_sensitive_one(sensitive, count):
    assert len(warnings(subject="What she sowed in the spring, it grew!", sensitive=sensitive)) == count


@pytest.mark.parametrize(
    ("language", "english"),
    [('{% set lang = "de" %}', False), ("{%- set lang = 'en-GB' -%}", True), ("", True)],
)
def test_words_are_looked_for_in_english_letters_only(language, english):
    """Which language it is, the operator's own words of the mails say; lengths and marks count in all of them."""
    templates = {"email/words.txt": language}

    found = warnings(body="Hello.\n\nA field.\n\nDas war just must so! [Here](/a)", templates=templates)

    assert ["full stop" in warning for warning in found].count(True) == 1
    assert len(found) == (5 if english else 1)


def test_the_lines_of_the_head_are_those_of_the_file(folder):
    folder.write(PATH, "---\naffirmation: none\npreheader: Short\nsubject: >\n  Short\n---\nHello.\n")

    found = [str(warning) for warning in lint(read_content(folder.root), countries=(), today=TODAY).warnings]

    assert [warning.split(": ")[0] for warning in found if PATH in warning] == [f"{PATH}:4", f"{PATH}:3"]


def test_a_letter_that_breaks_every_rule_can_be_published_all_the_same():
    body = "Hello.\n\n" + "You must just forgive!\n" * 40

    report = lint(revision(body=body, subject="Leave!"), countries=(), today=TODAY)

    assert report.errors == ()
    assert len(report.warnings) > 40
    assert lint(replace(Revision(), help_lines={"*": SERVICES}), countries=(), today=TODAY).warnings == ()
