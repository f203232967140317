"""The types of the events of a family, and the check of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..core.choices import shown
from ..core.errors import CommandError, ErrorCode, UsageError
from .parameters import decoder_of

__all__ = ["Contents"]


class Contents:
    """The types of the events of a family.

    Args:
        where: The name of the channels in errors.
        types: The type of the data of each event.

    Raises:
        UsageError: There is none, a name is no printable text, or data cannot be decoded into a
            type.
    """

    __slots__ = ("_decoders", "types")

    def __init__(self, where: str, types: Mapping[str, Any]) -> None:
        if not types:
            raise UsageError(f'{where} has no events: events=["update"]')
        self.types: Final = dict(types)
        self._decoders: Final[dict[str, Callable[[bytes], Any]]] = {}
        for event, kind in types.items():
            if not isinstance(event, str) or not event or not event.isprintable():  # type: ignore[redundant-expr]
                raise UsageError(f"{where}: an event is a printable text, not {shown(event)}")
            self._decoders[event] = decoder_of(f"{where}: the event {event!r}", kind, "$.data")

    def decode(self, event: str, data: bytes) -> Any:
        """Return the data of an event as an object of its type.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place; or there is no such event.
            Exception: A validator of the application failed.
        """
        decoder = self._decoders.get(event)
        if decoder is None:
            raise self._no_such_event()
        return decoder(data)

    def check(self, event: str, data: bytes) -> None:
        """Refuse data that is not of the type of its event, as :meth:`decode` does."""
        decoder = self._decoders.get(event)
        if decoder is None:
            raise self._no_such_event()
        decoder(data)

    def _no_such_event(self) -> CommandError:
        names = ", ".join(self._decoders)
        return CommandError(
            ErrorCode.VALIDATION_ERROR, f"this channel has no such event; it has {names}"
        )
