"""The contents of the page as JSON: channels, commands and their schemas, and policies in words."""

from __future__ import annotations

from typing import Any, Final

from ..bus import Bus, host_of
from ..core.families import Family, History
from ..core.overflow import Overflow
from ..schema.declared import DeclaredChannel, declared

__all__ = ["contents"]

_OVERFLOW: Final = {
    Overflow.DROP_OLDEST: "a full queue drops the oldest",
    Overflow.DROP_NEWEST: "a full queue drops the newest",
    Overflow.CLOSE: "a full queue closes the connection",
}
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def contents(bus: Bus, *, title: str, version: str) -> dict[str, Any]:
    """Return what the page shows of a bus.

    Raises:
        UsageError: A type has no schema.
    """
    found = declared(bus)
    endpoints = host_of(bus).endpoints
    return {
        "title": title,
        "version": version,
        "takes_token": any(each.authenticator is not None for each in endpoints),
        "channels": [
            {
                "template": each.template,
                "parameters": each.parameters,
                "text": _text(each, found.definitions),
                "events": each.events,
                "policy": _policy(each.family),
            }
            for each in found.channels
        ],
        "commands": [
            {
                "action": each.action,
                "text": each.text,
                "params": each.params,
                "result": each.result,
            }
            for each in found.commands
        ],
        "definitions": found.definitions,
    }


def _text(channel: DeclaredChannel, definitions: dict[str, dict[str, Any]]) -> str:
    """Return the first paragraph about the type of a channel's first event that has one."""
    for schema in channel.events.values():
        named = definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
        text = named.get("description")
        if isinstance(text, str):
            return " ".join(text.partition("\n\n")[0].split())
    return ""


def _policy(family: Family) -> dict[str, str]:
    policy = {"Overflow": _overflow(family), "History": _history(family.history)}
    if family.presence is not None:
        policy["Presence"] = f"names up to {family.presence.max_members:,} connections"
    return policy


def _overflow(family: Family) -> str:
    if family.overflow is None:
        return "that of the endpoint"
    if family.overflow is Overflow.CONFLATE:
        of = "" if family.key is None else f" of the same {family.key}"
        return f"a newer event replaces an older one{of}"
    return _OVERFLOW[family.overflow]


def _history(history: History | None) -> str:
    if history is None:
        return "keeps nothing"
    latest = ", and a new subscriber gets the latest at once" if history.gives_latest else ""
    return f"keeps the newest {history.size:,} for {_duration(history.ttl)}{latest}"


def _duration(seconds: float) -> str:
    size, unit = next(((s, u) for s, u in _UNITS if seconds >= s and seconds % s == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"
