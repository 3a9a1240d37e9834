from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newsletter.content import files
from newsletter.content.files import read_content
from newsletter.domain.sequence import Author, Finish, HelpKind, OnFinish, Reviewed, Start
from newsletter.errors import ContentErrors

SETTINGS = "sequences/trust/sequence.yaml"
LETTER = "sequences/trust/01-welcome.md"


def faults_of(folder):
    try:
        read_content(folder.root)
    except ContentErrors as refused:
        return refused.errors
    return ()


def read_settings(folder, text):
    folder.write(SETTINGS, text)
    return read_content(folder.root).sequence("trust")


def read_letter(folder, *head, body="Hello."):
    folder.write(LETTER, "\n".join(["---", "subject: A", *head, "---", body, ""]))
    return read_content(folder.root).sequence("trust").steps[0]


def test_a_letter_says_what_its_file_says(folder):
    step = read_letter(
        folder,
        "preheader: One breath",
        'heading: "Slowly: a start"',
        "affirmation: go-slowly",
        "related: [stress-leave, toxic-love]",
        "related_discreet: toxic-boss",
        "after: 1 week",
        "formerly: hello",
        body="\nHello {{ site.name }},\n\n::: practice Find your floor | two minutes\nLook.\n:::\n\n",
    )

    assert (step.key, step.number, step.path) == ("welcome", 1, LETTER)
    assert (step.subject, step.preheader, step.heading) == ("A", "One breath", "Slowly: a start")
    assert step.affirmation == "go-slowly"
    assert step.related == ("stress-leave", "toxic-love")
    assert step.related_discreet == ("toxic-boss",)
    assert step.after == timedelta(days=7)
    assert step.formerly == "hello"
    assert step.body.startswith("Hello {{ site.name }},\n")
    assert step.body.endswith("\n:::\n")
    assert (folder.root / LETTER).read_text().splitlines()[step.body_line - 1].startswith("Hello")


def test_what_a_letter_leaves_out_has_a_sensible_default(folder):
    step = read_letter(folder)

    assert (step.preheader, step.heading, step.after, step.formerly) == ("", None, None, None)
    assert step.affirmation == "next"
    assert step.related == ("newest",)
    assert step.related_discreet is None
    assert step.identity == ""


@pytest.mark.parametrize(
    ("head", "field", "value"),
    [
        ("affirmation: none", "affirmation", None),
        ("affirmation: next", "affirmation", "next"),
        ("related: none", "related", ()),
        ("related: []", "related", ()),
        ("related: newest", "related", ("newest",)),
        ("related-discreet: none", "related_discreet", ()),
        ("after: 1 day", "after", timedelta(days=1)),
        ("after: 3 days", "after", timedelta(days=3)),
        ("after: 2 weeks", "after", timedelta(days=14)),
        ("heading: 2026", "heading", "2026"),
        ('heading: "yes"', "heading", "yes"),
        ("heading: 'A: b'", "heading", "A: b"),
        ("heading: Café 🌱", "heading", "Café 🌱"),
        ("heading: two\n  lines", "heading", "two lines"),
    ],
)
def test_each_spelling_in_the_head_of_a_letter_means_what_it_looks_like(folder, head, field, value):
    assert getattr(read_letter(folder, head), field) == value


def test_letters_stand_in_the_order_of_their_numbers_not_of_their_names(folder):
    for number in ("100", "9", "020"):
        folder.write(f"sequences/trust/{number}-n{number}.md", "---\nsubject: A\n---\nHello\n")

    numbers = [step.number for step in read_content(folder.root).sequence("trust").steps]

    assert numbers == [1, 9, 20, 100]


def test_a_sequence_says_what_its_file_says(folder):
    sequence = read_settings(
        folder,
        "title: Nine letters\ndescription: >\n  Slow\n  letters.\nexpect: Nine, one a week\n"
        "author: {name: Joan, email: joan@example.org}\ncadence: weekly\nstart: at_once\nsensitive: true\n"
        "public: yes\non_finish: hold\nreviewed: {by: Dr. A, on: 2026-11-01}\n",
    )

    assert (sequence.title, sequence.description, sequence.expect) == (
        "Nine letters",
        "Slow letters.",
        "Nine, one a week",
    )
    assert sequence.author == Author(name="Joan", email="joan@example.org")
    assert sequence.start is Start.AT_ONCE
    assert (sequence.sensitive, sequence.public) == (True, True)
    assert sequence.on_finish == OnFinish(finish=Finish.HOLD)
    assert sequence.reviewed == Reviewed(by="Dr. A", on=date(2026, 11, 1))


def test_what_a_sequence_leaves_out_has_a_sensible_default(folder):
    sequence = read_settings(folder, "author: Joan\n")

    assert sequence.title == "Trust"
    assert sequence.author == Author(name="Joan")
    assert sequence.start is Start.ASK
    assert (sequence.sensitive, sequence.public, sequence.reviewed) == (False, False, None)
    assert sequence.on_finish == OnFinish(finish=Finish.STOP)


@pytest.mark.parametrize(
    "text",
    [
        "on_finish: {continue_with: weekly-note}",
        "on_finish:\n  continue_with: weekly-note",
        "on_finish:\n  continue-with: weekly-note",
        'on_finish: "continue_with: weekly-note"',
        "on_finish: continue_with\ncontinue_with: weekly-note",
        "on-finish: continue_with\ncontinue-with: weekly-note",
        "on_finish: {continue_with: weekly-note}\ncontinue_with: weekly-note",
    ],
)
def test_each_way_of_saying_what_comes_next_means_the_same(folder, text):
    expected = OnFinish(finish=Finish.CONTINUE_WITH, continue_with="weekly-note")
    assert read_settings(folder, text).on_finish == expected


def test_the_library_says_what_its_files_say(folder):
    folder.write("affirmations.yaml", "- {key: go-slowly, text: Slowly., tags: [rest, pace]}\n")
    folder.write(
        "related-posts.yaml",
        "- key: stress-leave\n  title: Stress leave\n  url: https://example.org/a?b=c\n  why: Rest.\n"
        "  published: 2026-01-02\n  tags: [work]\n  discreet: hide\n",
    )
    folder.write(
        "help-lines.yaml",
        'NO:\n  - {name: Line, kind: abuse, hours: "24/7", phone: +47 116 006, text: HELP to 1, '
        'chat: https://a.example/chat, languages: ["no", en], cost: free, relay: 149, '
        "source: https://a.example, checked-on: 2026-11-01}\n",
    )

    revision = read_content(folder.root)

    assert revision.affirmation("go-slowly").tags == ("rest", "pace")
    post = revision.related_post("stress-leave")
    assert (post.url, post.why, post.published) == ("https://example.org/a?b=c", "Rest.", date(2026, 1, 2))
    assert (post.tags, post.hide_when_discreet) == (("work",), True)
    (line,) = revision.help_lines["NO"]
    assert (line.kind, line.phone, line.relay) == (HelpKind.ABUSE, "+47 116 006", "149")
    assert (line.always_open, line.online) == (True, True)
    assert (line.languages, line.checked_on) == (("no", "en"), date(2026, 11, 1))


def test_a_library_that_is_not_there_is_an_empty_one(folder):
    for name in ("affirmations.yaml", "related-posts.yaml", "help-lines.yaml"):
        folder.write(name, None)

    revision = read_content(folder.root)

    assert (revision.affirmations, revision.related_posts, revision.help_lines) == ((), (), {})


def test_drafts_notes_and_hidden_files_are_left_alone(folder):
    expected = read_content(folder.root)
    folder.write("README.md", "Notes")
    folder.write("hard-days.yaml", "[never: read")
    for name in ("README.md", "_02-draft.md", ".03-hidden.md", "01-welcome.md~", "picture.png", "_old/x.md"):
        folder.write(f"sequences/trust/{name}", b"\xff")
    folder.write("sequences/_next/sequence.yaml", "nonsense: 1")
    folder.write("sequences/README.md", "Notes")
    folder.write("sequences/picture.png", b"\xff")

    assert read_content(folder.root) == expected


@pytest.mark.parametrize(("made", "part"), [(False, "no such folder"), (True, "no sequence here")])
def test_a_folder_without_content_is_refused_with_what_to_create(tmp_path, made, part):
    if made:
        (tmp_path / "content").mkdir()

    with pytest.raises(ContentErrors, match=part) as refused:
        read_content(tmp_path / "content")

    assert "create" in refused.value.errors[0].message


def test_a_folder_of_too_many_files_is_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILES", 3)

    with pytest.raises(ContentErrors, match="is this the right folder"):
        read_content(folder.root)


def test_a_file_that_leads_nowhere_is_refused(folder):
    folder.write(LETTER, None)
    (folder.root / LETTER).symlink_to(folder.root / LETTER)

    with pytest.raises(ContentErrors, match=r"01-welcome\.md: this"):
        read_content(folder.root)


@pytest.mark.parametrize("call", ["open", "is_dir", "exists"])
def test_what_may_not_be_read_is_an_error_with_its_name(folder, monkeypatch, call):
    real = getattr(Path, call)

    def refuse(self, *rest):
        if "trust" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *rest)

    monkeypatch.setattr(Path, call, refuse)

    with pytest.raises(ContentErrors, match=r"trust.*cannot be read \(Permission denied\)"):
        read_content(folder.root)


def test_a_file_name_of_many_lines_makes_a_message_of_one(folder):
    folder.write("sequences/trust/02-a\nb.md", "---\nsubject: A\n---\nHello\n")

    (error,) = faults_of(folder)

    assert r"02-a\nb.md: " in str(error)


def test_a_template_has_a_name_that_can_be_stored(folder, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "a\udcff.html").write_text("Hello")

    with pytest.raises(ContentErrors, match=r"a\\udcff\.html: .* rename it"):
        read_content(folder.root, templates=tmp_path / "templates")


def test_a_folder_of_too_many_templates_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILES", 7)
    (tmp_path / "templates").mkdir()
    for number in range(8):
        (tmp_path / "templates" / f"{number}.html").write_text("Hello")

    with pytest.raises(ContentErrors, match=r"templates: there are more than 7 files"):
        read_content(folder.root, templates=tmp_path / "templates")


def test_overridden_templates_are_kept_by_their_path(folder, tmp_path):
    templates = tmp_path / "templates"
    for name in ("email/letter.html", "pages/sent.html", "static/site.css", ".hidden", "pages/_parts.html~"):
        (templates / name).parent.mkdir(parents=True, exist_ok=True)
        (templates / name).write_text("{% if a %}{{ b }}{% endif %}" if name.endswith("html") else "a{#b}")

    revision = read_content(folder.root, templates=templates)

    assert set(revision.templates) == {"email/letter.html", "pages/sent.html", "static/site.css"}
    assert revision.templates["email/letter.html"] == "{% if a %}{{ b }}{% endif %}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<p>\n{% if a %}", r"templates/email/letter\.html:2: this is not Jinja"),
        (b"<p>\n\xe9", r"templates/email/letter\.html:2: .*UTF-8"),
    ],
)
def test_a_broken_template_is_refused_with_its_line(folder, tmp_path, content, message):
    templates = tmp_path / "templates"
    (templates / "email").mkdir(parents=True)
    (templates / "email" / "letter.html").write_bytes(content)

    with pytest.raises(ContentErrors, match=message):
        read_content(folder.root, templates=templates)


def test_a_templates_folder_that_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(ContentErrors, match="NEWSLETTER_TEMPLATES_DIR"):
        read_content(folder.root, templates=tmp_path / "nowhere")


PIECES = st.sampled_from(
    [
        *rb"""subject: a & - key: & related: [ & {{ & }} & {% if & %} & ::: & *a & " & ' & \U & \
        & ? & : & | & > & { & } & # & %YAML 1.1 & <<: & !!python/name: & on_finish & US:
        & 99999999999999999999 & e & (((((((( & - - - - & ... & &x""".split(b" & "),
        *(b"\n", b"\n---\n", b"\xc3\xa9", b"\xed\xa0\x80", b"\xc2\x85"),
    ]
)
ANY_BYTES = st.binary(max_size=60) | st.lists(st.one_of(PIECES, st.binary(max_size=3)), max_size=30).map(b"".join)
QUICK = settings(
    max_examples=75,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # the folder is written anew for each example


@pytest.mark.parametrize("path", [LETTER, SETTINGS, "affirmations.yaml", "related-posts.yaml", "help-lines.yaml"])
@QUICK
@given(content=ANY_BYTES)
@example(content=b"a: " + b"[" * 3000)
@example(content=b"---\nsubject: a\n---\n{{ " + b"1+" * 3000 + b"1 }}")
def test_whatever_bytes_a_file_holds_nothing_but_content_errors_comes_of_it(folder, path, content):
    folder.write(path, content)

    assert all("\n" not in str(error) for error in faults_of(folder))


@QUICK
@given(head=ANY_BYTES, body=ANY_BYTES)
def test_whatever_a_letter_holds_every_fault_is_on_one_of_its_lines(folder, head, body):
    content = b"---\nsubject: A\n" + head + b"\n---\nHello\n" + body
    folder.write(LETTER, content)

    assert all(1 <= (error.line or 1) <= content.count(b"\n") + 1 for error in faults_of(folder))
