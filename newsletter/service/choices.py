"""What a reader can choose, and what was chosen."""

from __future__ import annotations

from newsletter.domain.cadence import Slot, known_timezone
from newsletter.domain.sequence import FALLBACK_COUNTRY, HelpLine, Sequence
from newsletter.errors import InvalidChoice, NotFound
from newsletter.service.editions import Edition, Editions
from newsletter.service.views import Offer
from newsletter.store.database import Connection, Database

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Choices:
    """The sequences, slots and countries that a reader may choose from.

    Args:
        default_slot: the site's own slot.
        default_sequence: the sequence that the form offers first.
    """

    def __init__(self, *, database: Database, editions: Editions, default_slot: Slot, default_sequence: str) -> None:
        self._database = database
        self._editions = editions
        self._default_slot = default_slot
        self._default_sequence = default_sequence

    def offers(self) -> tuple[Offer, ...]:
        """What the form offers, the default first; nothing while nothing is published."""
        with self._database.read() as connection:
            edition = self._editions.live(connection)
        if edition is None:
            return ()
        sequences = sorted(edition.revision.sequences, key=lambda item: item.key != self._default_sequence)
        return tuple(
            Offer(
                key=sequence.key,
                title=sequence.title,
                description=sequence.description,
                expect=sequence.expect,
                count=None if sequence.endless else len(sequence.steps),
                selected=index == 0,
            )
            for index, sequence in enumerate(sequences)
        )

    def help_lines(self) -> dict[str, tuple[HelpLine, ...]]:
        """The published help lines, by country; "*" is the international fallback."""
        with self._database.read() as connection:
            edition = self._editions.live(connection)
        return {} if edition is None else dict(edition.revision.help_lines)

    def countries(self) -> tuple[str, ...]:
        """The countries that have help lines of their own."""
        return tuple(sorted(set(self.help_lines()) - {FALLBACK_COUNTRY}))

    def default_slot(self) -> Slot:
        """The site's own slot."""
        return self._default_slot

    def sequence(self, connection: Connection, key: str | None) -> tuple[Edition, Sequence]:
        """The live sequence that was asked for, or the site's own.

        Raises:
            NotFound: there is none.
        """
        edition = self._editions.live(connection)
        wanted = key or self._default_sequence
        sequence = None if edition is None else edition.revision.sequence(wanted)
        if sequence is None and edition is not None and not key and edition.revision.sequences:
            sequence = edition.revision.sequences[0]
        if edition is None or sequence is None:
            there = ", ".join(item.key for item in edition.revision.sequences) if edition else "nothing yet"
            message = f"These letters are not offered here; there is: {there}."
            raise NotFound(message)
        return edition, sequence

    def slot(self, *, weekday: str | None, time: str | None, timezone: str | None) -> Slot:
        """The slot that was chosen; what is None or empty is the site's own.

        Raises:
            InvalidChoice: no such zone, weekday or hour.
        """
        default = self._default_slot
        timezone = timezone or default.timezone
        if not known_timezone(timezone):
            raise InvalidChoice("Choose a time zone from the list, such as Europe/Berlin.", field="timezone")
        weekday = weekday or _WEEKDAYS[default.weekday]
        time = time or f"{default.at:%H:%M}"
        try:
            Slot.parse(f"{weekday} 00:00", timezone=timezone)
        except ValueError as error:
            raise InvalidChoice(f"Choose a day of the week: {', '.join(_WEEKDAYS)}.", field="weekday") from error
        try:
            return Slot.parse(f"{weekday} {time}", timezone=timezone)
        except ValueError as error:
            raise InvalidChoice("Write the hour as 08:00.", field="time") from error

    def country(self, country: str | None) -> str | None:
        """The country that was chosen, by its code; None where it was left open.

        Raises:
            InvalidChoice: there are no help lines for it.
        """
        if not country:
            return None
        code = country.strip().upper()
        if code not in (known := self.countries()):
            there = f"Choose one of {', '.join(known)}" if known else "There are no help lines for any country yet"
            raise InvalidChoice(f"{there}; or leave the country open.", field="country")
        return code
