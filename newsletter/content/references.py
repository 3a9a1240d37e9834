"""What one content file says about another, held against what is there."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from newsletter.content.faults import Faults, shown, suggestion
from newsletter.content.library import AFFIRMATIONS_FILE, POSTS_FILE, Library

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Sequence as Rows

    from newsletter.content.letters import Letter
    from newsletter.content.series import Series

_PLACEHOLDERS = frozenset({"newest", "none"})


def check_references(series: Rows[Series], library: Library, keys: Collection[str], faults: Faults) -> None:
    """Note every reference to something that is not there.

    Args:
        series: the sequences that could be read.
        library: what letters draw on.
        keys: the keys of all sequences, those that could not be read among them.
        faults: where to note what is wrong.
    """
    for one in series:
        target = one.sequence.on_finish.continue_with
        if target is not None and target not in keys:
            others = tuple(key for key in keys if key != one.sequence.key)
            message = f"there is no sequence {shown(target)}; {suggestion(target, others)}"
            faults.add(message, path=one.settings_path, line=one.next_line)
        for letter in one.letters:
            _check_letter(letter, library, faults)
        _check_formerly(one, faults)
    _check_cycles(series, faults)


def _check_letter(letter: Letter, library: Library, faults: Faults) -> None:
    step = letter.step
    affirmations = {item.key for item in library.affirmations}
    named = step.affirmation
    # A library file with a fault in it may have lost entries; its own fault is enough to mend.
    if named not in (None, "next") and named not in affirmations and not faults.touch(AFFIRMATIONS_FILE):
        message = f"there is no affirmation {shown(named or '')}; {suggestion(named or '', affirmations)}"
        message += "" if affirmations else f" Add it to {AFFIRMATIONS_FILE}."
        faults.add(message, path=step.path, line=letter.lines["affirmation"])
    if faults.touch(POSTS_FILE):
        return
    posts = {post.key: post for post in library.related_posts}
    for field, keys in (("related", step.related), ("related_discreet", step.related_discreet or ())):
        for key in keys:
            if key not in posts and key not in _PLACEHOLDERS:
                message = f"there is no related post {shown(key)}; {suggestion(key, posts)}"
                message += "" if posts else f" Add it to {POSTS_FILE}."
                faults.add(message, path=step.path, line=letter.lines[field])
    for key in step.related_discreet or ():
        if key in posts and posts[key].hide_when_discreet:
            message = f"{key} is hidden from discreet readers (discreet: hide); name another post here."
            faults.add(message, path=step.path, line=letter.lines["related_discreet"])


def _check_formerly(one: Series, faults: Faults) -> None:
    present = {letter.step.key: letter.step.path for letter in one.letters}
    claimed: dict[str, str] = {}
    for letter in one.letters:
        old = letter.step.formerly
        if old is None:
            continue
        path, line = letter.step.path, letter.lines["formerly"]
        if old in present:
            other = PurePosixPath(present[old]).name
            message = f"formerly: {old} is still a letter ({other}); remove one of the two."
            faults.add(message, path=path, line=line)
        elif old in claimed:
            other = PurePosixPath(claimed[old]).name
            message = f"formerly: {old} became {other} already; keep one of the two."
            faults.add(message, path=path, line=line)
        claimed.setdefault(old, path)


def _check_cycles(series: Rows[Series], faults: Faults) -> None:
    """Note each circle of continue_with once, at its first sequence."""
    following = {one.sequence.key: one.sequence.on_finish.continue_with for one in series}
    settled: set[str] = set()
    for one in series:
        trail: list[str] = []
        key: str | None = one.sequence.key
        while key is not None and key not in settled and key not in trail:
            trail.append(key)
            key = following.get(key)
        if key is not None and key in trail:
            circle = trail[trail.index(key) :]
            first = next(each for each in series if each.sequence.key in circle)
            way = " -> ".join([*circle, key])
            message = f"these sequences go round in a circle ({way}); let one of them stop, hold or repeat."
            faults.add(message, path=first.settings_path, line=first.next_line)
        settled.update(trail)
