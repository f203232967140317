"""The claims of a token: made from options, and described in words. Without secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from ..core.errors import InvalidChannel
from ..core.permissions import Grants
from .escaping import printable
from .exits import Failed
from .options import parse_json

__all__ = ["GRANTS", "claims_of", "describe", "duration", "ends_at", "in_words"]

GRANTS: Final = (
    "subscribe",
    "publish",
    "command",
    "history",
    "presence",
    "cancel",
    "deny_subscribe",
    "deny_publish",
    "deny_command",
)
_OWN: Final = {
    "sub": "--subject",
    "exp": "--expires",
    "admin": "--admin",
    **dict.fromkeys(GRANTS, "--grant"),
}
"""Claims that have an option of their own."""
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NAMES: Final = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
_PART: Final = re.compile(r"(\d{1,9})([dhms])", re.ASCII)
_MEANINGS: Final = {
    "subscribe": "may subscribe",
    "publish": "may publish",
    "command": "may command",
    "history": "may read the history of",
    "presence": "may see presence on",
    "cancel": "may cancel streams on",
    "deny_subscribe": "may not subscribe",
    "deny_publish": "may not publish",
    "deny_command": "may not command",
}


def duration(text: str) -> int:
    """Return the seconds of ``90``, ``15m``, ``1h30m``, ``7d``.

    Raises:
        click.BadParameter: It has another form, or is zero.
    """
    parts = _PART.findall(f"{text}s" if text.isdecimal() else text)
    if "".join(number + unit for number, unit in parts) not in {text, f"{text}s"}:
        raise click.BadParameter(f"{text!r} is no duration; it should be like 90s, 15m, 1h30m, 7d")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not seconds:
        raise click.BadParameter("a token should live longer than that")
    return seconds


def in_words(seconds: float) -> str:
    """Return a duration in words, in its two largest units: ``1 hour 30 minutes``."""
    left = math.floor(abs(seconds))
    parts: list[tuple[int, str]] = []
    for unit, size in _UNITS.items():
        number, left = divmod(left, size)
        if number or parts:
            parts.append((number, _NAMES[unit]))
    words = [f"{number} {name}{'' if number == 1 else 's'}" for number, name in parts[:2] if number]
    return " ".join(words) or "0 seconds"


def claims_of(
    subject: str,
    expires_at: int,
    *,
    admin: bool,
    grants: Iterable[str],
    claims: Iterable[str],
) -> dict[str, Any]:
    """Return the claims that options ask for; each of ``grants`` and ``claims`` is ``name=value``.

    Raises:
        Failed: Servers would refuse a token with these.
    """
    if not subject or not subject.isprintable():
        raise Failed("the subject must be printable text")
    found: dict[str, Any] = {"sub": subject, "exp": expires_at}
    if admin:
        found["admin"] = True
    for grant in grants:
        name, separator, pattern = grant.partition("=")
        if name not in GRANTS or not separator:
            raise Failed(f"--grant is NAME=PATTERN, and NAME is of: {', '.join(GRANTS)}")
        found.setdefault(name, []).append(pattern)
    try:
        Grants.of(**{name: found[name] for name in GRANTS if name in found})
    except InvalidChannel as exc:
        raise Failed(f"a pattern of --grant is none: {exc}") from exc
    for claim in claims:
        name, separator, value = claim.partition("=")
        if not name or not separator:
            raise Failed("--claim is NAME=JSON")
        if name in _OWN:
            raise Failed(f"the claim {name} has an option of its own: {_OWN[name]}")
        found[name] = parse_json(value, f"the claim {name}")
    return found


def ends_at(claims: Mapping[str, Any]) -> float | None:
    """Return when a token expires, in seconds since the epoch; None: it has no usable ``exp``."""
    end = claims.get("exp")
    if isinstance(end, bool) or not isinstance(end, int | float) or not abs(end) < 1e15:
        return None
    return float(end)


def describe(claims: Mapping[str, Any], now: float) -> Iterable[tuple[str, str]]:
    """Yield a heading and a description for each claim."""
    yield "subject", _value(claims["sub"]) if "sub" in claims else "none: servers refuse it"
    yield "expires", _expiry(claims, now)
    if "admin" in claims:
        is_admin = claims["admin"] is True
        yield "admin", "may subscribe to everything" if is_admin else _value(claims["admin"])
    for name, meaning in _MEANINGS.items():
        if name in claims:
            patterns = claims[name]
            is_list = isinstance(patterns, list) and all(isinstance(p, str) for p in patterns)
            yield meaning, printable(", ".join(patterns)) if is_list else _value(patterns)
    for name, value in claims.items():
        if name not in _OWN:
            yield printable(name), _value(value)


def _expiry(claims: Mapping[str, Any], now: float) -> str:
    if "exp" not in claims:
        return "never: servers refuse it"
    end = ends_at(claims)
    if end is None:
        return f"{_value(claims['exp'])}, which is no time"
    words = in_words(end - now)
    when = f"in {words}" if end > now else f"{words} ago: EXPIRED"
    try:
        return f"{when} ({datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    except (OverflowError, ValueError, OSError):
        return when


def _value(value: object) -> str:
    return printable(value if isinstance(value, str) else msgspec.json.encode(value).decode())
