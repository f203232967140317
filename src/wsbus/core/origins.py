"""Origins of pages: the ``Origin`` header (RFC 6454), pure.

A browser writes an origin as ``scheme://host`` or ``scheme://host:port``: in lower case, without
the scheme's default port, and without a path. Settings are converted to that form when they are
made, so that every listed origin can match.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, Literal

from .errors import UsageError

__all__ = ["is_same_host", "is_welcome", "normal_origin", "parse_origins"]

_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_LOCAL: Final = {"localhost", "127.0.0.1", "[::1]"}
"""Hosts of pages under development, which are served without TLS."""
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^\s/?#@:\[\]*,]+)(?::(?P<port>\d{1,5}))?",
)


def normal_origin(text: str) -> str | None:
    """Return an origin as a browser writes it, or None if ``text`` is not an origin.

    Letters become lower case, the scheme's default port and a host's last dot are removed, and a
    host that is not ASCII is written with ``xn--`` (IDNA).
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    if port is None or port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}" if int(port) < 65_536 else None


def parse_origins(
    origins: Collection[str] | Literal["same-host", "*"],
) -> frozenset[str] | Literal["same-host", "*"]:
    """Return the setting in the form in which browsers send origins.

    Capitals, a slash at the end and the default port are corrected.

    Raises:
        UsageError: An origin could never match: it has no scheme, or a path, or a wildcard.
    """
    if isinstance(origins, str):
        if origins not in {"same-host", "*"}:
            raise UsageError(
                f"origins are a collection of texts, 'same-host' or '*': write [{origins!r}]"
            )
        return "*" if origins == "*" else "same-host"
    try:
        texts = list(origins)
    except TypeError:
        raise UsageError("origins are a collection of texts, 'same-host' or '*'") from None
    if texts in (["*"], ["same-host"]):
        return "*" if texts == ["*"] else "same-host"
    return frozenset(map(_parse, texts))


def _parse(text: object) -> str:
    if not isinstance(text, str):
        raise UsageError(f"an origin is a text such as 'https://example.com', not {text!r}")
    if text == "null":  # Sent by pages without an origin: files, and sandboxed frames.
        return text
    found = normal_origin(text.removesuffix("/"))
    if found is None or found.startswith(("ws://", "wss://")):
        raise UsageError(f"the origin {text!r} can never match: {_cure(text)}")
    return found


def _cure(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if text in {"*", "same-host"}:
        return f"write origins={text!r}, without others"
    if "*" in text:
        return "wildcards have no meaning here; list each origin"
    if not separator:
        scheme = "http" if text.partition(":")[0] in _LOCAL else "https"
        return f"a browser sends the scheme, too: write '{scheme}://{text}'"
    if scheme.lower() in {"ws", "wss"}:
        return f"it is the page's, not the socket's: write 'http{scheme[2:]}://{rest}'"
    if "/" in rest or "?" in rest or "#" in rest:
        return f"an origin has no path: write '{scheme}://{re.split('[/?#]', rest)[0]}'"
    return "write it as a browser does: 'https://example.com' or 'http://localhost:5173'"


def is_welcome(origins: Collection[str], origin: str | None, host: str) -> bool:
    """Tell whether a handshake may connect.

    Args:
        origins: As :func:`parse_origins` returned them.
        origin: The ``Origin`` header; None: the client is no page of a browser.
        host: The ``Host`` header.
    """
    if origin is None or origins == "*":
        return True
    if origins == "same-host":
        return is_same_host(origin, host)
    return origin in origins or normal_origin(origin) in origins


def is_same_host(origin: str, host: str) -> bool:
    """Tell whether a page of ``origin`` came from the host that it connects to.

    Args:
        origin: As the client sent it. ``null`` has no host.
        host: The ``Host`` header, from the raw headers: a URL rebuilt from them could be made to
            lie. The scheme is not compared: a proxy in front may end TLS.
    """
    scheme, _, authority = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme.lower())
    default = "" if port is None else f":{port}"
    authority = authority.lower().removesuffix(default)
    return authority != "" and authority == host.lower().removesuffix(default)
