from dataclasses import replace
from datetime import date, timedelta

import pytest

from newsletter.content.lint import lint
from newsletter.domain.sequence import HelpKind, HelpLine, Reviewed, Revision, Sequence, Step

TODAY = date(2026, 11, 23)
LETTER = "Hello.\n\n" + "A field with a gate in it.\n\n" * 24
STEP = Step(
    key="welcome",
    number=1,
    path="sequences/trust/01-welcome.md",
    subject="Before anything else, you set the pace",
    preheader="Nine short letters, and nothing to send back.",
    body=LETTER,
    body_line=5,
)
LINE = HelpLine(name="Line", kind=HelpKind.CRISIS, hours="24/7", phone="988", checked_on=TODAY)
ONLINE = replace(LINE, name="Chat", phone=None, chat="https://a.example")
CLEAN = Revision(
    sequences=(
        Sequence(key="trust", title="Trust", steps=(STEP,), sensitive=True, reviewed=Reviewed(by="A", on=TODAY)),
    ),
    help_lines={"US": (LINE, ONLINE), "*": (replace(ONLINE, hours="varies"),)},
)


def with_step(**changes):
    sequence = CLEAN.sequences[0]
    return replace(CLEAN, sequences=(replace(sequence, steps=(replace(STEP, **changes),)),))


def with_help(**countries):
    return replace(CLEAN, help_lines={"*": CLEAN.help_lines["*"], **countries})


def errors(revision, countries=("US",)):
    return [str(error) for error in lint(revision, countries=countries, today=TODAY).errors]


def warnings(revision):
    report = lint(revision, countries=("US",), today=TODAY)
    assert report.errors == ()
    return [str(warning) for warning in report.warnings]


def test_a_sound_revision_has_neither_errors_nor_warnings():
    assert lint(CLEAN, countries=("US",), today=TODAY) == lint(Revision(), countries=(), today=TODAY)
    assert warnings(CLEAN) == []


@pytest.mark.parametrize("services", [(), (ONLINE,), (replace(LINE, hours="24/7 by chat"), ONLINE)])
def test_a_sensitive_sequence_needs_two_services_that_never_close_in_each_country(services):
    (error,) = [error for error in errors(with_help(US=services)) if "24/7" in error]

    assert error.startswith("help-lines.yaml: US has ")
    assert "trust" in error


def test_a_sensitive_sequence_needs_a_service_that_works_online_in_each_country():
    (error,) = errors(with_help(US=(LINE, LINE)))

    assert "US has no service that works online" in error


@pytest.mark.parametrize("way", [{"chat": "https://a.example"}, {"web": "https://a.example"}])
def test_chat_and_web_both_count_as_online(way):
    assert errors(with_help(US=(LINE, replace(LINE, **way)))) == []


def test_each_configured_country_is_judged_once_and_by_its_own_services():
    assert [error[:19] for error in errors(CLEAN, countries=("US", "DE", "DE"))] == ["help-lines.yaml: DE"] * 2


def test_a_sensitive_sequence_needs_services_for_readers_elsewhere():
    (error,) = errors(replace(CLEAN, help_lines={"US": (LINE, ONLINE)}))

    assert 'add the entry "*":' in error


def test_a_sequence_that_is_not_sensitive_needs_no_help_lines():
    plain = replace(CLEAN, sequences=(replace(CLEAN.sequences[0], sensitive=False),), help_lines={})

    assert errors(plain) == []


@pytest.mark.parametrize(("age", "stale"), [(180, False), (181, True)])
def test_a_help_line_is_stale_after_180_days(age, stale):
    old = replace(ONLINE, checked_on=TODAY - timedelta(days=age))

    found = warnings(with_help(US=(LINE, LINE, old)))

    message = "Chat (US) was last checked 181 days ago; look it up and write checked_on: 2026-11-23"
    assert found == ([f"help-lines.yaml: {message}"] if stale else [])


def test_a_help_line_that_was_never_checked_warns():
    (warning,) = warnings(with_help(US=(LINE, replace(ONLINE, checked_on=None))))

    assert "never checked" in warning


def test_a_sensitive_sequence_that_nobody_reviewed_warns():
    (warning,) = warnings(replace(CLEAN, sequences=(replace(CLEAN.sequences[0], reviewed=None),)))

    assert warning.startswith("sequences/trust/sequence.yaml: nobody has reviewed")


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("so <b>much</b> of it", "<b>"),
        ("<script>alert(1)</script>", "<script>"),
        ("| a | b |", "| a | b |"),
        ("[a gate](javascript:alert(1))", "](javascript:alert(1)"),
    ],
)
def test_what_readers_would_see_as_it_stands_is_named_with_its_line(line, seen):
    [warning] = warnings(with_step(body=f"Hello.\n\n{line}\n\n{LETTER}"))

    assert warning.startswith("sequences/trust/01-welcome.md:7: readers will see")
    assert seen in warning


@pytest.mark.parametrize("line", ["see <https://example.org/a>", "a < b and c > d", "I <3 you", "a | b"])
def test_what_only_looks_like_it_is_left_alone(line):
    assert warnings(with_step(body=f"{line}\n\n{LETTER}")) == []
