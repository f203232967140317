"""Keeps tokens, and the mistakes of clients, out of the logs of server libraries."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

__all__ = ["ClientsAtDebug", "RedactQuery", "is_redacted", "redact"]

_QUERY: Final = re.compile(r'(?<=[^\s?])\?[^ "]+')
_REQUEST_LINE: Final = "first_request_line"
"""An attribute that aiohttp adds to records of its access log, for formatters that write JSON."""

_OF_CLIENTS: Final = {
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "Invalid UTF-8 sequence received from client.",
}


class RedactQuery(logging.Filter):
    """Takes query strings, which may hold tokens, and clients' messages out of log records.

    uvicorn logs ``"WebSocket /ws?token=…" [accepted]`` at INFO to ``uvicorn.error``, and HTTP
    requests to ``uvicorn.access``; attach it to both with :func:`redact`. What is not UTF-8 it
    logs as an ERROR, with an exception that holds all of the message: the exception is taken off,
    and the level becomes INFO, since what a client sends is nothing an operator could mend. At
    DEBUG it logs headers and messages, which no filter can tell apart: do not.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact it; false if its logger does not log what has become INFO."""
        if isinstance(record.args, tuple) and record.args:
            record.args = tuple(
                f"{arg.partition('?')[0]}?…" if isinstance(arg, str) and "?" in arg else arg
                for arg in record.args
            )
        elif not record.args and isinstance(record.msg, str):
            record.msg = _QUERY.sub("?…", record.msg)
        line = getattr(record, _REQUEST_LINE, None)
        if isinstance(line, str):
            setattr(record, _REQUEST_LINE, _QUERY.sub("?…", line))
        if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
            return logging.getLogger(record.name).isEnabledFor(logging.INFO)
        return True


def redact(*names: str) -> None:
    """Attach a :class:`RedactQuery` to loggers; idempotent.

    It may be called before or after uvicorn has configured its logging.

    Args:
        *names: Of the loggers; none: those of uvicorn.
    """
    for name in names or ("uvicorn.error", "uvicorn.access"):
        target = logging.getLogger(name)
        if not is_redacted(target):
            target.addFilter(RedactQuery())


def is_redacted(log: logging.Logger) -> bool:
    """Tell whether a logger has a :class:`RedactQuery`."""
    return any(isinstance(present, RedactQuery) for present in log.filters)


class ClientsAtDebug:
    """A logger of uvicorn that logs the mistakes of clients at DEBUG, and without a traceback.

    uvicorn (0.54) logs them as warnings and errors, so that any stranger can fill the log.

    Args:
        log: Takes everything.
    """

    __slots__ = ("_log",)

    def __init__(self, log: logging.Logger) -> None:
        self._log: Final = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def warning(self, message: str, *args: object) -> None:
        """Log a warning."""
        self._log.log(logging.DEBUG if message in _OF_CLIENTS else logging.WARNING, message, *args)

    def exception(self, message: str, *args: object) -> None:
        """Log an error, with the traceback of the exception that is being handled."""
        if message in _OF_CLIENTS:
            self._log.debug(message, *args)
        else:
            self._log.exception(message, *args)
