"""What the tests lean on: a PostgreSQL server, a browser, and when their absence is a failure."""

import os


def is_set(name: str) -> bool:
    """Say whether an environment variable is there and does not say no."""
    return os.environ.get(name, "").lower() not in {"", "0", "false", "no"}


def is_required(thing: str) -> bool:
    """Say whether tests must fail, instead of being skipped, where `thing` is missing.

    They must in CI (`CI` is set) and where `NEWSLETTER_REQUIRE_<THING>=1` says so: a suite that silently
    leaves out an engine would be green for the wrong reason.
    """
    return is_set("CI") or is_set(f"NEWSLETTER_REQUIRE_{thing.upper()}")
