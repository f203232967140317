"""Templates of channels: names with parameters, such as ``grid.{id}.status``.

A parameter is one whole segment. A template says three things: the channel for given values, the
pattern for values some of which are ``*``, and the values that a channel of its has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Final

from .channels import Channel, parse_channel, split_name
from .choices import shown
from .errors import InvalidChannel, UsageError
from .patterns import Pattern, parse_pattern

__all__ = ["ANY", "Template"]

ANY: Final = "*"
"""In place of the value of a parameter: all values."""

_find_parameter: Final = re.compile(r"\{([^{}]*)\}").fullmatch
_UNFIT: Final = re.compile(r"[.*{}]")
_MAX_KNOWN: Final = 4096
_WILDCARD: Final = "+"
"""It stands for one segment at any place, where a last ``*`` stands for several."""


class Template:
    """A name whose segments may be parameters in braces.

    Args:
        text: Such as ``grid.{id}.status``; without a parameter it is the name of a channel.

    Raises:
        UsageError: A parameter is no whole segment, has no name that Python could pass, or occurs
            twice; or there is a wildcard.
        InvalidChannel: The rest breaks the grammar of channels.
    """

    __slots__ = ("_key_of", "_known", "_places", "_segments", "pattern", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self._segments: Final = split_name(text)
        self._places: Final[dict[str, int]] = {}
        """The place of each parameter among the segments."""
        for place, segment in enumerate(self._segments):
            found = _find_parameter(segment)
            if found is None:
                if _UNFIT.search(segment) or segment == _WILDCARD:
                    raise UsageError(
                        f"{text!r}: {segment!r} is neither literal nor one parameter in braces, as "
                        "in grid.{id}.status"
                    )
                continue
            name = found[1]
            if not name.isidentifier():
                raise UsageError(f"{text!r}: {name!r} is not the name of a parameter in Python")
            if name in self._places:
                raise UsageError(f"{text!r} has the parameter {name!r} twice")
            self._places[name] = place
        self._key_of: Final[Callable[[Mapping[str, object]], object]] = (
            itemgetter(*self._places) if self._places else tuple
        )
        """Returns the values in order; of a single parameter, the value itself."""
        self._known: Final[dict[object, Channel]] = {}
        """Channels that were made lately, by their values; all of these are texts."""
        self.pattern: Final[Pattern] = parse_pattern(self._filled({}))
        """Matches all channels of the template."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(self._places)

    def channel(self, values: Mapping[str, object]) -> Channel:
        """Return the channel with these values.

        Args:
            values: A text or whole number for each parameter.

        Raises:
            UsageError: A parameter is missing or unknown, or its value is no single segment.
            InvalidChannel: The whole is too long.

        Cost: a look-up if the values are texts and were given lately.
        """
        try:
            known = self._known.get(self._key_of(values))  # Only texts are equal to texts.
        except (KeyError, TypeError):  # One is missing, or is no text, but a list, say.
            known = None
        if known is not None and len(values) == len(self._places):
            return known
        return self._made(values)

    def _made(self, values: Mapping[str, object]) -> Channel:
        missing = [name for name in self._places if name not in values]
        if missing:
            raise UsageError(f"{self.text!r} needs {', '.join(f'{name}=' for name in missing)}")
        channel = parse_channel(self._filled(self._texts(values)))
        if all(type(value) is str for value in values.values()):
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[self._key_of(values)] = channel
        return channel

    def selection(self, values: Mapping[str, object]) -> str:
        """Return the pattern of the channels with these values; without one, or ``*``: all.

        Raises:
            UsageError: A parameter is unknown, or its value is no single segment.
            InvalidChannel: The whole is too long.
        """
        given = {name: value for name, value in values.items() if value != ANY}
        texts = self._texts(given)
        self._refuse_unknown(values)
        return parse_pattern(self._filled(texts)).text

    def values(self, channel: str) -> dict[str, str]:
        """Return the values of the parameters in the name of a channel.

        Raises:
            InvalidChannel: It is no channel of the template.
        """
        if not self.pattern.matches(parse_channel(channel)):
            raise InvalidChannel(f"it is no channel of {self.text}", channel)
        segments = channel.split(".")
        return {name: segments[place] for name, place in self._places.items()}

    def _filled(self, texts: Mapping[str, str]) -> str:
        segments = [*self._segments]
        for name, place in self._places.items():
            segments[place] = texts.get(name, _WILDCARD)
        return ".".join(segments)

    def _refuse_unknown(self, values: Mapping[str, object]) -> None:
        for name in values:
            if name not in self._places:
                known = ", ".join(self._places) or "none"
                raise UsageError(f"{self.text!r} has no parameter {name!r}; it has {known}")

    def _texts(self, values: Mapping[str, object]) -> dict[str, str]:
        self._refuse_unknown(values)
        return {name: self._text(name, value) for name, value in values.items()}

    def _text(self, name: str, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UsageError(
                f"{self.text!r}: {name} is a text or a whole number, not {shown(value)}"
            )
        text = str.__str__(value) if isinstance(value, str) else int.__repr__(value)
        try:
            if len(split_name(text)) == 1 and parse_channel(text):
                return text
        except InvalidChannel:
            pass
        raise UsageError(
            f"{self.text!r}: the value of {name} is no single segment of a channel; for text from "
            f"outside write {name}=escape_segment(…)"
        )
