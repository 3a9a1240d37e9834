"""The letters of many readers in one second: what they share is written, and made ready to be signed, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from newsletter.mail.canonical import essence_of
from newsletter.rendering.forms import Form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from newsletter.mail.dkim import DkimSigner


class Printing:
    """Writes and signs one reader's letter after the other.

    Args:
        marked: a whole message, with its holes marked (`forms.marked_message`).
        date: the one that it bears.
        dkim: its signers; the last one's signature stands on top.
    """

    __slots__ = ("_body", "_dkim", "_essence", "_fields", "_message", "date")

    def __init__(self, marked: bytes, *, date: datetime, dkim: Sequence[DkimSigner]) -> None:
        self.date = date
        self._message = Form(marked)
        self._dkim = dkim
        if dkim:
            # No filling holds a space: what is canonical around a mark is so around whatever takes its place.
            self._essence = essence_of(marked)
            self._fields, self._body = Form(self._essence.fields), Form(self._essence.body)

    def letter(self, own: Mapping[str, bytes]) -> bytes:
        """The message of one reader.

        Args:
            own: see `Form.filled`.
        """
        message = self._message.filled(own)
        if not self._dkim:
            return message
        essence = self._essence._replace(fields=self._fields.filled(own), body=self._body.filled(own))
        for dkim in self._dkim:
            message = dkim.field(essence) + message
        return message
