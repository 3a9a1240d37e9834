"""Each mistake is met with one error that names the file, the line, and what to write instead."""

from dataclasses import dataclass

import pytest

from newsletter.content.files import read_content
from newsletter.errors import ContentErrors

SETTINGS = "sequences/trust/sequence.yaml"
LETTER = "sequences/trust/01-welcome.md"
NOTE = "sequences/weekly-note/sequence.yaml"
POSTS = "related-posts.yaml"
AFFIRMATIONS = "affirmations.yaml"
HELP = "help-lines.yaml"


@dataclass(frozen=True)
class Bad:
    """`path` holding `content` gives one error, at `line` of it (or of `where`), that tells `remedy`."""

    path: str
    content: str | bytes | None
    line: int | None
    remedy: str
    where: str | None = None


def letter(*head: str, body: str = "Hello.") -> str:
    return "\n".join(["---", "subject: Before anything else", *head, "---", body, ""])


BAD = {
    # the file itself
    "not UTF-8": Bad(LETTER, b"---\nsubject: Caf\xe9\n---\nHello\n", 2, 'save the file as "UTF-8"'),
    "UTF-16": Bad(LETTER, "---\nsubject: A\n---\nB\n".encode("utf-16"), 1, 'save it again as "UTF-8"'),
    "byte order mark": Bad(LETTER, b"\xef\xbb\xbf" + letter().encode(), 1, 'without "BOM"'),
    "CRLF": Bad(LETTER, letter().replace("\n", "\r\n"), 1, "Unix line ends"),
    "lone carriage return": Bad(LETTER, letter(body="one\rtwo"), 4, "Unix line ends"),
    "empty letter": Bad(LETTER, "", None, "write it, or delete it"),
    "blank letter": Bad(LETTER, " \n\n", None, "write it, or delete it"),
    "tab in the head": Bad(LETTER, letter("heading:\tHello"), 3, "write spaces"),
    "tab in the body": Bad(LETTER, letter(body="Hello\n\tyou"), 5, "write spaces"),
    "tab in YAML": Bad(SETTINGS, "author:\n\tname: Joan\n", 2, "write spaces"),
    "null byte": Bad(LETTER, letter(body="one\n\x00"), 5, "delete it"),
    "hidden line end": Bad(LETTER, letter(body="one\u2028two"), 4, "U+2028"),
    "too large": Bad(LETTER, letter(body="a" * 1_000_001), None, "split it"),
    # front matter
    "no front matter": Bad(LETTER, "Hello\n", 1, "the first line must be ---"),
    "head never closed": Bad(LETTER, "---\nsubject: A\n\nHello\n", 1, "write --- on a line of its own"),
    "head empty": Bad(LETTER, "---\n---\nHello\n", 2, "write subject: …"),
    "head of comments": Bad(LETTER, "---\n# later\n---\nHello\n", 2, "write key: value"),
    "head a list": Bad(LETTER, "---\n- subject\n---\nHello\n", 2, "key: value"),
    "no body": Bad(LETTER, letter(body=""), 3, "write it below the second line ---"),
    "no subject": Bad(LETTER, "---\nheading: A\n---\nHello\n", 2, "add the line subject: …"),
    "subject empty": Bad(LETTER, "---\nsubject:\n---\nHello\n", 2, "subject is empty"),
    "subject blank": Bad(LETTER, '---\nsubject: " "\n---\nHello\n', 2, "subject is empty"),
    "subject of two lines": Bad(LETTER, "---\nsubject: |\n  A\n  B\n---\nHello\n", 2, "one line"),
    "subject with a colon": Bad(LETTER, "---\nsubject: One: two\n---\nHello\n", 2, "a text with a colon needs quotes"),
    "subject of Jinja unquoted": Bad(LETTER, "---\nsubject: {{ site.name }}\n---\nHello\n", 2, "put it in quotes"),
    "subject hides a header": Bad(LETTER, '---\nsubject: "A\\r\\nBcc: b"\n---\nHello\n', 2, "without backslashes"),
    "subject half a character": Bad(LETTER, '---\nsubject: "\\ud800"\n---\nHello\n', 2, "without backslashes"),
    "escape beyond Unicode": Bad(
        LETTER, '---\nsubject: "\\UFFFFFFFF"\n---\nHello\n', 2, "a backslash names no character"
    ),
    "unknown escape": Bad(LETTER, '---\nsubject: "a\\q"\n---\nHello\n', 2, "double the backslash"),
    "quotes never closed": Bad(LETTER, '---\nsubject: "A\n---\nHello\n', 2, "close the quotation mark"),
    "at sign first": Bad(LETTER, letter("heading: @home"), 3, "needs quotes"),
    "colon without a space": Bad(LETTER, letter("heading:Home"), 3, "with a space after the colon"),
    "misspelt key": Bad(LETTER, letter("preheder: Hello"), 3, "did you mean preheader?"),
    "unknown key": Bad(LETTER, letter("zzz: Hello"), 3, "write one of affirmation"),
    "key twice": Bad(LETTER, letter("heading: A", "heading: B"), 4, "given on line 3 already"),
    "key twice in two spellings": Bad(
        LETTER, letter("related_discreet: newest", "related-discreet: none"), 4, "given on line 3 already"
    ),
    "key that is a list": Bad(LETTER, letter("[a]: b"), 3, "a key must be one word"),
    "yes for a text": Bad(LETTER, letter("heading: Yes"), 3, 'put it in quotes: heading: "Yes"'),
    "a date for a text": Bad(LETTER, letter("heading: 2026-11-23"), 3, 'heading: "2026-11-23"'),
    "a time for a text": Bad(LETTER, letter("heading: 1:30"), 3, 'heading: "1:30"'),
    "null for a text": Bad(LETTER, letter("affirmation: null"), 3, "affirmation is empty"),
    "list for a text": Bad(LETTER, letter("heading: [a, b]"), 3, "YAML reads a list here"),
    "mapping for a list": Bad(LETTER, letter("related: {a: b}"), 3, "YAML reads a mapping here"),
    "after in hours": Bad(LETTER, letter("after: 36 hours"), 3, "write after: 3 days or after: 1 week"),
    "after none": Bad(LETTER, letter("after: 0 days"), 3, "write after: 3 days"),
    "after for ever": Bad(LETTER, letter("after: 999 weeks"), 3, "write after: 3 days"),
    "newest among others": Bad(LETTER, letter("related: [newest, toxic-boss]"), 3, "stand alone"),
    "post named twice": Bad(LETTER, letter("related: [toxic-boss, toxic-boss]"), 3, "twice"),
    "formerly no key": Bad(LETTER, letter("formerly: Old Name"), 3, "write old-name"),
    "formerly itself": Bad(LETTER, letter("formerly: welcome"), 3, "remove the line"),
    # YAML that does more than say something
    "Python object": Bad(LETTER, letter("heading: !!python/object/apply:os.system [ls]"), 3, "needs quotes"),
    "anchor": Bad(LETTER, letter("heading: &a A"), 3, "begins with & needs quotes"),
    "alias": Bad(LETTER, letter("heading: *a"), 3, "begins with * needs quotes"),
    "deep nesting": Bad(LETTER, letter("related: " + "[" * 200_000), 3, "nested too deeply"),
    "two documents": Bad(SETTINGS, "title: A\n---\ntitle: B\n", 2, "remove the line ---"),
    # Jinja
    "endless text": Bad(LETTER, letter(body="a" * 200_001), 4, "shorten it"),
    "Jinja never closed": Bad(LETTER, letter(body="Hello\n\n{{ site.name }"), 6, "write {{ name }} for a value"),
    "if never closed": Bad(LETTER, letter(body="Hello\n{% if affirmation %}"), 5, "{% endif %}"),
    "unknown tag": Bad(LETTER, letter(body="Hello\n{% do x %}"), 5, "this is not Jinja"),
    "unknown name": Bad(LETTER, letter(body="Hello\n{{ sight.name }}"), 5, "did you mean site?"),
    "unknown attribute": Bad(LETTER, letter(body="{{ links.unsuscribe }}"), 4, "did you mean unsubscribe?"),
    "hidden attribute": Bad(LETTER, letter(body="{{ site.__class__ }}"), 4, "site.__class__ is not known"),
    "attribute of a text": Bad(LETTER, letter(body="{{ affirmation.text }}"), 4, "write {{ affirmation }}"),
    "attribute of an attribute": Bad(LETTER, letter(body="{{ site.name.x }}"), 4, "remove it"),
    "name that says nothing": Bad(LETTER, letter(body="{{ reader }}"), 4, "write {{ reader.country }}"),
    "unknown filter": Bad(LETTER, letter(body="{{ site.name|uper }}"), 4, "did you mean upper?"),
    "unknown test": Bad(LETTER, letter(body="{% if 1 is od %}a{% endif %}"), 4, "did you mean odd?"),
    "call": Bad(LETTER, letter(body="a\n{{ help_lines() }}"), 5, "nothing can be called"),
    "brackets": Bad(LETTER, letter(body="{{ site['name'] }}"), 4, "write a dot"),
    "assignment": Bad(LETTER, letter(body="{% set a = 1 %}"), 4, "write the text itself"),
    "other file": Bad(LETTER, letter(body="{% include 'x' %}"), 4, "cannot draw in other files"),
    "endless number": Bad(LETTER, letter(body="{{ 9**9**9**9 }}"), 4, "only + and - can be calculated"),
    "long number": Bad(LETTER, letter(body="{{ " + "9" * 5000 + " }}"), 4, "write it more simply"),
    "long sum": Bad(LETTER, letter(body="{{ 1" + " + 1" * 5000 + " }}"), 4, "write it more simply"),
    "deep Jinja": Bad(LETTER, letter(body="{{ " + "(" * 5000 + " }}"), 4, "write it more simply"),
    "Jinja in a subject": Bad(LETTER, '---\nsubject: "{{ name }}"\n---\nHello\n', 2, "not known in a letter"),
    "Jinja in a preheader": Bad(LETTER, letter("heading: A", 'preheader: "{% if"'), 4, "this is not Jinja"),
    # containers
    "unknown container": Bad(LETTER, letter(body="Hello\n\n::: practise A | b\nc\n:::"), 6, "did you mean practice?"),
    "container never closed": Bad(LETTER, letter(body="a\n::: practice A | b\nc"), 5, "write ::: below it"),
    "container within another": Bad(
        LETTER, letter(body="::: practice A\nb\n::: source\nc\n:::"), 6, "write ::: above this line"
    ),
    "container closed twice": Bad(LETTER, letter(body="::: source\nb\n:::\n:::"), 7, "begin a box"),
    "practice without a title": Bad(LETTER, letter(body="::: practice | two minutes\nb\n:::"), 4, "needs a title"),
    # names of files
    "letter without a number": Bad("sequences/trust/How it shows.md", letter(), None, "02-how-it-shows.md"),
    "letter with a space": Bad("sequences/trust/02 how.md", letter(), None, "02-how.md"),
    "letter of another ending": Bad("sequences/trust/02-how.markdown", letter(), None, "02-how.md"),
    "letter in capitals": Bad("sequences/trust/02-How.md", letter(), None, "write how"),
    "letter of a reserved key": Bad("sequences/trust/02-all.md", letter(), None, "choose another key"),
    "number twice": Bad("sequences/trust/1-why.md", letter(), 1, "the number 1 belongs to 01-welcome.md"),
    "key of a letter twice": Bad("sequences/trust/02-welcome.md", letter(), 1, "the key welcome belongs to"),
    "letter that is a folder": Bad("sequences/trust/02-how.md/x", "", None, "not a file", "sequences/trust/02-how.md"),
    "settings of another ending": Bad("sequences/trust/sequence.yml", "title: A\n", None, "call it sequence.yaml"),
    "library of another ending": Bad("affirmations.yml", "- key: a\n", None, "did you mean affirmations.yaml?"),
    "letter in no sequence": Bad("sequences/welcome.md", letter(), None, "sequences/welcome"),
    "long key": Bad("sequences/trust/02-" + "a" * 61 + ".md", letter(), None, "at most 60"),
    # sequence.yaml
    "settings missing": Bad(SETTINGS, None, None, "create it with at least the line title"),
    "settings misspelt": Bad(SETTINGS, "tittle: A\n", 1, "did you mean title?"),
    "cadence": Bad(SETTINGS, "title: A\ncadence: daily\n", 2, "write weekly."),
    "start": Bad(SETTINGS, "start: atonce\n", 1, "did you mean at_once?"),
    "flag quoted": Bad(SETTINGS, 'sensitive: "true"\n', 1, "write sensitive: true, without quotes"),
    "flag a number": Bad(SETTINGS, "public: 1\n", 1, "write public: true"),
    "author without a name": Bad(SETTINGS, "title: A\nauthor:\n  email: a@example.org\n", 3, "name is missing"),
    "author nowhere": Bad(SETTINGS, "author:\n  name: A\n  email: example.org\n", 3, "'example.org'"),
    "reviewed by name only": Bad(SETTINGS, "reviewed: Dr. A\n", 1, "write reviewed: {by: Name"),
    "reviewed no day": Bad(SETTINGS, "reviewed:\n  by: Dr. A\n", 2, "add the day of the review"),
    "reviewed on no day": Bad(SETTINGS, "reviewed:\n  by: Dr. A\n  on: 2026-02-30\n", 3, "a day that exists"),
    "reviewed at a time": Bad(SETTINGS, "reviewed: {by: A, on: 23.11.2026}\n", 1, "on: 2026-11-23"),
    "on_finish unknown": Bad(SETTINGS, "on_finish: stopp\n", 1, "did you mean stop?"),
    "on_finish nested on one line": Bad(SETTINGS, "on_finish: continue_with: a\n", 1, "{key: value}"),
    "continue with nothing": Bad(SETTINGS, "on_finish: continue_with\n", 1, "on_finish: {continue_with: KEY}"),
    "continue_with alone": Bad(SETTINGS, "title: A\ncontinue_with: weekly-note\n", 2, "needs the line on_finish"),
    "continue_with twice": Bad(
        SETTINGS, "on_finish: {continue_with: weekly-note}\ncontinue_with: other\n", 2, "remove this line"
    ),
    "continue with an unknown one": Bad(
        SETTINGS, "on_finish:\n  continue_with: weekly-notes\n", 1, "did you mean weekly-note?"
    ),
    "continue in a circle": Bad(
        NOTE, "on_finish: 'continue_with: trust'\n", 2, "trust -> weekly-note -> trust", where=SETTINGS
    ),
    "continue with itself": Bad(SETTINGS, "on_finish: {continue_with: trust}\n", 1, "trust -> trust"),
    # references
    "unknown affirmation": Bad(LETTER, letter("affirmation: go-slow"), 3, "did you mean go-slowly?"),
    "unknown post": Bad(LETTER, letter("heading: A", "related: [toxic-bos]"), 4, "did you mean toxic-boss?"),
    "unknown discreet post": Bad(LETTER, letter("related_discreet: stress"), 3, "did you mean stress-leave?"),
    "discreet post that is hidden": Bad(LETTER, letter("related_discreet: [toxic-love]"), 3, "name another post"),
    "formerly a present key": Bad(
        "sequences/trust/02-how.md", letter("formerly: welcome"), 3, "still a letter (01-welcome.md)"
    ),
    "sequence without a letter": Bad(
        LETTER, None, 1, "add a file such as 01-welcome.md", "sequences/trust/sequence.yaml"
    ),
    # the library
    "library no list": Bad(AFFIRMATIONS, "key: a\ntext: b\n", 1, "begin each entry with a dash"),
    "entry no mapping": Bad(AFFIRMATIONS, "- a\n", 1, "key: value"),
    "affirmation without a text": Bad(AFFIRMATIONS, "- key: a\n  text: b\n- key: c\n", 3, "text is missing"),
    "affirmation key twice": Bad(AFFIRMATIONS, "- {key: a, text: b}\n- {key: a, text: c}\n", 2, "on line 1 already"),
    "affirmation key reserved": Bad(AFFIRMATIONS, "- {key: next, text: b}\n", 1, "choose another key"),
    "affirmation key with a space": Bad(AFFIRMATIONS, "- key: Go slowly\n  text: b\n", 1, "write go-slowly"),
    "tag that is no text": Bad(AFFIRMATIONS, "- key: a\n  text: b\n  tags: [no, b]\n", 3, 'tags: "no"'),
    "post without an address": Bad(POSTS, "- key: a\n  title: b\n", 1, "write url: https://…"),
    "post with two addresses": Bad(POSTS, "- {key: a, title: b, url: /a, path: /b}\n", 1, "needs one address"),
    "post that runs": Bad(POSTS, "- key: a\n  title: b\n  url: javascript:alert(1)\n", 3, "write url: https://…"),
    "post path of another host": Bad(POSTS, "- key: a\n  title: b\n  path: //evil.example\n", 3, "/evil.example"),
    "post path without a slash": Bad(POSTS, "- key: a\n  title: b\n  path: my post\n", 3, "write path: /my-post"),
    "post published some day": Bad(POSTS, "- {key: a, title: b, path: /a,\n   published: May}\n", 2, "year-month-day"),
    "post discreet": Bad(POSTS, "- {key: a, title: b, path: /a,\n   discreet: hidden}\n", 2, "discreet: hide"),
    "help lines a list": Bad(HELP, "- name: A\n", 1, "key: value"),
    "country in small letters": Bad(HELP, "us: []\n", 1, "write US."),
    "country by name": Bad(HELP, "Germany: []\n", 1, "its two capital letters"),
    "star without quotes": Bad(HELP, "*: []\n", 1, '"*":'),
    "services no list": Bad(HELP, "US:\n  name: A\n", 2, "begin each entry with a dash"),
    "service without a kind": Bad(HELP, "US:\n  - {name: A, hours: always, phone: 1}\n", 2, "kind: crisis"),
    "service of another kind": Bad(
        HELP,
        "US:\n  - name: A\n    hours: always\n    phone: 1\n    kind: crises\n",
        5,
        "did you mean crisis?",
    ),
    "service out of reach": Bad(HELP, "US:\n  - {name: A, hours: always, kind: crisis}\n", 2, "add phone"),
    "service without hours": Bad(HELP, "US:\n  - {name: A, kind: crisis, phone: 1}\n", 2, "hours is missing"),
    "service web": Bad(
        HELP, "US:\n  - {name: A, kind: crisis, hours: always,\n     web: a.org}\n", 3, "write web: https://…"
    ),
    "checked on no day": Bad(
        HELP,
        "US:\n  - {name: A, kind: crisis, hours: b, phone: 1,\n     checked-on: today}\n",
        3,
        "2026-11-23",
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_mistake_is_one_error_with_its_file_its_line_and_the_remedy(folder, bad):
    folder.write(bad.path, bad.content)

    with pytest.raises(ContentErrors) as refused:
        read_content(folder.root)

    found = [(error.path, error.line, error.message) for error in refused.value.errors]
    assert [(path, line) for path, line, _ in found] == [(bad.where or bad.path, bad.line)], found
    assert bad.remedy in found[0][2]
    assert "\n" not in str(refused.value.errors[0])


def test_all_faults_of_a_folder_are_told_at_once_in_the_order_of_files_and_lines(folder):
    folder.write(LETTER, letter("zzz: 1", "heading: [a]", body="{{ nobody }}"))
    folder.write(AFFIRMATIONS, "- text: a\n")

    with pytest.raises(ContentErrors) as refused:
        read_content(folder.root)

    found = [(error.path, error.line) for error in refused.value.errors]
    assert found == [(AFFIRMATIONS, 1), (LETTER, 3), (LETTER, 4), (LETTER, 6)]
    assert str(refused.value).splitlines()[1].startswith("sequences/trust/01-welcome.md:3: ")


def test_fifty_faults_are_told_and_the_rest_is_counted(folder):
    folder.write(AFFIRMATIONS, "- text: a\n" * 70)

    with pytest.raises(ContentErrors) as refused:
        read_content(folder.root)

    assert len(refused.value.errors) == 51
    assert refused.value.errors[-1].message.startswith("20 more faults")


def test_the_name_of_a_folder_is_a_key(folder):
    folder.write("sequences/My Series/sequence.yaml", "title: A\n")
    folder.write("sequences/My Series/01-welcome.md", letter())

    with pytest.raises(ContentErrors, match=r"sequences/My Series: .* write my-series") as refused:
        read_content(folder.root)

    assert len(refused.value.errors) == 1


def test_a_reference_to_an_empty_library_says_that_it_is_empty(folder):
    folder.write(AFFIRMATIONS, None)
    folder.write(LETTER, letter("affirmation: go-slowly"))

    with pytest.raises(ContentErrors, match=r"no affirmation 'go-slowly'; there is none yet"):
        read_content(folder.root)


def test_two_letters_cannot_come_from_the_same_one(folder):
    for number in ("02-why", "03-how"):
        folder.write(f"sequences/trust/{number}.md", letter("formerly: because"))

    with pytest.raises(ContentErrors, match=r"03-how\.md:3: formerly: because became 02-why\.md already"):
        read_content(folder.root)


def test_a_broken_library_does_not_make_every_letter_wrong_as_well(folder):
    folder.write(LETTER, letter("affirmation: go-slowly", "related: [toxic-boss]"))
    folder.write(AFFIRMATIONS, "- [\n")
    folder.write(POSTS, "- [\n")

    with pytest.raises(ContentErrors) as refused:
        read_content(folder.root)

    assert [error.path for error in refused.value.errors] == [AFFIRMATIONS, POSTS]
