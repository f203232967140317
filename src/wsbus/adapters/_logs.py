"""Filters that keep tokens and the mistakes of clients out of the logs of server libraries."""

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
    """Removes query strings, which may hold tokens, and clients' messages from log records.

    uvicorn logs ``"WebSocket /ws?token=…" [accepted]`` at INFO to ``uvicorn.error``, and HTTP
    requests to ``uvicorn.access``; attach the filter to both with :func:`redact`. uvicorn logs
    text that is not UTF-8 as an ERROR, with an exception that contains the message: the filter
    removes the exception, and lowers the level to INFO, since an operator cannot fix it. Do not
    run uvicorn at DEBUG: it then logs headers and messages, which the filter cannot recognize.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record; false if it has become INFO and its logger does not log that."""
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
        *names: Names of the loggers; without any, those of uvicorn.
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

    uvicorn (0.54) logs them as warnings and errors, so that any client can fill the log.

    Args:
        log: The logger that the records go to.
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
        """Log an error, with the traceback of the current exception."""
        if message in _OF_CLIENTS:
            self._log.debug(message, *args)
        else:
            self._log.exception(message, *args)
