"""Golden vectors: what stands on the wire, word for word, and what it means.

The files in ``vectors`` hold lists of objects with ``name``, ``text`` (lines of one message; they
are stripped and put together, since the pages break and indent long samples) and one of
``means`` (commands of a client's frame), ``says`` (a reply) or ``publishes`` (a publication).
What the pages leave out as ``…`` is filled in. The moment is 1703836800, as in their samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from wsbus.core import messages
from wsbus.core.channels import parse_channel
from wsbus.core.events import ChannelLoss, Position
from wsbus.core.instant import Instant
from wsbus.core.messages import Publication, Rejection

NOW: Final = Instant(monotonic=17.0, wall=1703836800.0)

_VECTORS: Final = Path(__file__).parent / "vectors"


def vectors(name: str, kind: str) -> list[object]:
    """Return the vectors of a dialect that have the key ``kind``, as (value, text)."""
    entries = json.loads((_VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return [
        pytest.param(entry[kind], text_of(entry, kind), id=entry["name"])
        for entry in entries
        if kind in entry
    ]


def vectors_by_scene(name: str) -> list[object]:
    """Return the scenes of a dialect, each as the list of its entries, in order."""
    entries = json.loads((_VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    scenes = dict.fromkeys(entry["scene"] for entry in entries)
    return [pytest.param([e for e in entries if e["scene"] == s], id=s) for s in scenes]


def text_of(entry: dict[str, Any], kind: str) -> str:
    """Return the message; a client's is left as it was typed."""
    lines: list[str] = entry["text"]
    return "".join(lines) if kind == "means" else "".join(line.strip() for line in lines)


def neutral(spec: dict[str, Any]) -> Any:
    """Build the command or reply that ``spec`` describes."""
    fields = {name: value(name, given) for name, given in spec.items() if name != "is"}
    return getattr(messages, spec["is"])(**fields)


def value(name: str, given: Any) -> Any:
    """Turn one field from what JSON can say into what it is."""
    match name, given:
        case (("data" | "params"), str()):
            return given.encode()
        case "channels", dict():
            return {name: ChannelLoss(**loss(told)) for name, told in given.items()}
        case "rejected", list():
            return tuple(Rejection(**rejection) for rejection in given)
        case _, list():
            return tuple(given)
        case _:
            return given


def loss(told: dict[str, Any]) -> dict[str, Any]:
    """Build what is missing of one channel."""
    return {name: position(given) if name == "position" else given for name, given in told.items()}


def position(spec: list[Any] | None) -> Position | None:
    """Build the position of an epoch and an offset."""
    return None if spec is None else Position(*spec)


def publication(spec: dict[str, Any]) -> Publication:
    """Build the publication that ``spec`` describes."""
    return Publication(
        parse_channel(spec["channel"]),
        spec["event"],
        spec["data"].encode(),
        NOW.wall,
        position=position(spec.get("position")),
        previous=position(spec.get("previous")),
    )
