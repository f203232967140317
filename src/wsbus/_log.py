"""Log lines: with attributes for machines, bounded where clients cause them, safe to print."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Final, TypeAlias

__all__ = ["BoundedLog", "about", "escaped"]

_SECONDS: Final = 60.0
_Extra: TypeAlias = Mapping[str, object] | None
_MAX_KINDS: Final = 1000
"""Kinds of lines that are counted; those of an application are few."""


def about(kind: str, **facts: str | float | None) -> dict[str, object]:
    """Return the attributes of a log record: ``logger.error(…, extra=about("link_lost", …))``.

    Args:
        kind: Identifies the kind of line, whatever its words are.
        **facts: What the line is about; each becomes an attribute with the prefix ``wsbus_``. Text
            of clients is escaped. None: it is not known.
    """
    known = {f"wsbus_{name}": value for name, value in facts.items() if value is not None}
    return {"wsbus_kind": kind, **known}


class BoundedLog:
    """Logs a bounded number of lines of each kind a minute, and counts the rest.

    The last line before the rest says so, and the first one after the minute has the count, so
    that a flood does not fill the log, and can be seen nevertheless.

    Args:
        logger: The logger for the lines.
        a_minute: Number of lines of each kind.
    """

    __slots__ = ("_a_minute", "_kinds", "_logger")

    def __init__(self, logger: logging.Logger, a_minute: int = 10) -> None:
        self._logger: Final = logger
        self._a_minute: Final = a_minute
        self._kinds: Final[dict[tuple[str, str], _Count]] = {}

    def warning(self, text: str, *args: object, of: str = "", extra: _Extra = None) -> None:
        """Log at WARNING; see :meth:`log`."""
        self.log(logging.WARNING, text, *args, of=of, extra=extra)

    def error(
        self,
        text: str,
        *args: object,
        of: str = "",
        exc: BaseException | None = None,
        extra: _Extra = None,
    ) -> None:
        """Log at ERROR; see :meth:`log`."""
        self.log(logging.ERROR, text, *args, of=of, exc=exc, extra=extra)

    def exception(self, text: str, *args: object, of: str = "", extra: _Extra = None) -> None:
        """Log at ERROR, with the traceback of the exception that is handled; see :meth:`log`."""
        self.log(logging.ERROR, text, *args, of=of, exc=sys.exception(), extra=extra)

    def log(
        self,
        level: int,
        text: str,
        *args: object,
        of: str = "",
        exc: BaseException | None = None,
        extra: _Extra = None,
    ) -> None:
        """Log a line, or count it.

        Args:
            level: A level of :mod:`logging`. A line below the logger's level does not count.
            text: The line, with ``%s`` for the arguments; it is the line's kind.
            *args: The arguments.
            of: Distinguishes kinds with one text; a name of the application, not of a client.
            exc: The exception whose traceback follows.
            extra: Attributes of the record; see :func:`about`. It gets ``wsbus_left_out``, too, the
                number of lines of this kind that were only counted before.
        """
        if not self._logger.isEnabledFor(level):
            return
        now = monotonic()
        kind = self._kinds.get((text, of))
        if kind is None:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds[text, of] = _Count(now)
        elif now - kind.since >= _SECONDS:
            kind.since, kind.count = now, 0
        kind.count += 1
        if kind.count > self._a_minute:
            kind.left_out += 1
            return
        line = text
        if kind.left_out:
            line += f" ({kind.left_out} more like this were left out before)"
            extra = {**(extra or {}), "wsbus_left_out": kind.left_out}
            kind.left_out = 0
        if kind.count == self._a_minute > 1:
            line += f" (more like this are only counted for {_SECONDS:g} s)"
        self._logger.log(level, line, *args, exc_info=exc, extra=extra)


class _Count:
    __slots__ = ("count", "left_out", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.left_out = 0


def escaped(text: str, limit: int = 100) -> str:
    """Return a client's text for a log line: shortened, with control characters escaped."""
    short = text if len(text) <= limit else text[:limit] + "…"
    return short.encode("unicode_escape", "backslashreplace").decode("ascii")
