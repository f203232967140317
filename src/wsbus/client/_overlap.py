"""Streams of one client that match the same channels: what several bring is taken once; pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final

from ._readings import NameStream, StreamMessage

__all__ = ["Overlap"]


class Overlap:
    """The streams that are read, oldest first; of those that match a channel the first one counts.

    When that ends, the next one goes on exactly where it was: what it has brought already comes
    now, and what is still to come from it, and has been heard, is skipped.
    """

    def __init__(self) -> None:
        self._readings: Final[list[NameStream]] = []

    def __iter__(self) -> Iterator[NameStream]:
        return iter(self._readings)

    @property
    def count(self) -> int:
        """How many names are read."""
        return sum(len(reading.names) for reading in self._readings)

    def add(self, reading: NameStream) -> None:
        """Read one more."""
        self._readings.append(reading)

    def drop(self, reading: NameStream) -> list[str]:
        """End one; return what others have brought in its place. Idempotent."""
        if reading in self._readings:
            self._readings.remove(reading)
            reading.scope.cancel()
        return self._released()

    def forget(self, name: str, but: NameStream | None = None) -> list[str]:
        """Read a name no more, but in one stream; return what others have brought in its place."""
        texts: list[str] = []
        for reading in list(self._readings):
            is_held = reading is not but and reading.names.pop(name, None) is not None
            if is_held and not reading.names:
                texts += self.drop(reading)
        return texts + self._released()

    def takes(self, reading: NameStream, text: str, said: StreamMessage) -> bool:
        """Tell whether an event of a stream is to be heard; note what others are to skip."""
        first = self._first(said.channel)
        if first is None or not reading.matches(said.channel) or not reading.is_new(said):
            return False
        key = _key(text, said)
        if key in reading.owed:
            reading.owed.remove(key)
            return False
        if first is not reading:
            if first.max_rate == reading.max_rate:
                reading.ahead.append((key, said.channel, text))
            return False
        self._note(reading, key, said.channel)
        return True

    def _first(self, channel: str) -> NameStream | None:
        return next((each for each in self._readings if each.matches(channel)), None)

    def _note(self, heard: NameStream, key: Hashable, channel: str) -> None:
        """Let the other streams that bring an event skip it."""
        for each in self._readings:
            if each is heard or not each.wants(channel):
                continue
            found = next((item for item in each.ahead if item[0] == key), None)
            if found is None:
                each.owed.append(key)
            else:
                each.ahead.remove(found)

    def _released(self) -> list[str]:
        """Return what streams have brought before others that brought it no more."""
        texts: list[str] = []
        for reading in self._readings:
            for item in list(reading.ahead):
                key, channel, text = item
                if self._first(channel) is reading and item in reading.ahead:
                    reading.ahead.remove(item)
                    self._note(reading, key, channel)
                    texts.append(text)
        return texts


def _key(text: str, said: StreamMessage) -> Hashable:
    """Return what an event is known by: each stream brings it with the same text."""
    return text if said.position is None else said.position
