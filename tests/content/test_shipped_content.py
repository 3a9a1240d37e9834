from datetime import date

from newsletter.content.files import read_content
from newsletter.content.lint import lint
from newsletter.resources import content_dir, templates_dir


def test_the_content_that_comes_with_the_program_can_be_published():
    """The age of help lines is left to publish and doctor: a test must not fail because time went by."""
    revision = read_content(content_dir(), templates=templates_dir())
    countries = [country for country in revision.help_lines if country != "*"]

    report = lint(revision, countries=countries, today=date(2026, 11, 23))

    assert report.errors == ()
    assert revision.sequences
    assert countries


def test_the_only_warning_of_the_shipped_letters_is_that_no_clinician_read_them():
    report = lint(read_content(content_dir()), countries=(), today=date(2026, 11, 23))

    assert [str(warning) for warning in report.warnings if "nobody has reviewed" not in warning.message] == []
