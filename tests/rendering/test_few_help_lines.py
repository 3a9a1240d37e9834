"""Which services a letter names out of all that a country has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.sequence import HelpKind, HelpLine
from newsletter.rendering.help_lines import MOST_IN_A_LETTER, few


def line(name: str, kind: HelpKind = HelpKind.CRISIS, *, hours: str = "24/7", chat: str | None = None) -> HelpLine:
    return HelpLine(name=name, kind=kind, hours=hours, phone="1", chat=chat)


def test_one_for_a_crisis_one_for_abuse_and_one_in_writing() -> None:
    """Of a long list, a letter names a crisis line, an abuse line, both never closed, and one without a telephone."""
    services = [
        line("office hours", hours="Mon to Fri"),
        line("crisis"),
        line("another crisis"),
        line("child", HelpKind.CHILD, chat="https://chat.example.org"),
        line("abuse", HelpKind.ABUSE),
    ]
    assert [found.name for found in few(services)] == ["crisis", "child", "abuse"]


def test_a_short_list_is_whole() -> None:
    """Where a country has few services, all of them are named, in their order."""
    services = [line("directory", hours="A directory"), line("abuse", HelpKind.ABUSE, hours="Evenings")]
    assert few(services) == tuple(services)


@given(
    st.lists(
        st.builds(
            line,
            st.text(min_size=1, max_size=3),
            st.sampled_from(HelpKind),
            hours=st.sampled_from(["24/7", "Evenings"]),
            chat=st.sampled_from([None, "https://c.example.org"]),
        ),
        max_size=8,
        unique=True,
    )
)
def test_never_more_and_never_fewer_than_could_be(services: list[HelpLine]) -> None:
    """As many as there are, up to the most, in the operator's order, a crisis line that never closes among them."""
    chosen = few(services)
    assert len(chosen) == min(len(services), MOST_IN_A_LETTER)
    assert list(chosen) == [found for found in services if found in chosen]
    if any(found.always_open and found.kind is HelpKind.CRISIS for found in services):
        assert any(found.always_open and found.kind is HelpKind.CRISIS for found in chosen)
