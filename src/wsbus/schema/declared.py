"""The typed channels and commands of a bus, with their types in JSON Schema (2020-12)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from .._pydantic import mentions_pydantic
from ..bus import Bus, host_of
from ..core.errors import UsageError
from ..core.families import Family
from ..server.commands import RegisteredCommand

__all__ = ["Declared", "DeclaredChannel", "DeclaredCommand", "declared", "json_schema"]

_REFERENCE: Final = "#/$defs/{name}"


@dataclass(frozen=True, slots=True)
class DeclaredChannel:
    """Channels of one template."""

    template: str
    parameters: tuple[str, ...]
    events: dict[str, dict[str, Any]]
    """The schema of the data of each event."""
    family: Family
    """Their policy."""


@dataclass(frozen=True, slots=True)
class DeclaredCommand:
    """A command."""

    action: str
    params: dict[str, Any]
    """The schema of ``params``, an object."""
    needs_params: bool
    """Whether a call without ``params`` is refused."""
    result: dict[str, Any]
    text: str
    """The first paragraph of its docstring; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Declared:
    """All that a bus declares."""

    channels: list[DeclaredChannel] = field(default_factory=list)
    commands: list[DeclaredCommand] = field(default_factory=list)
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The types that have names; schemas refer to them as ``#/$defs/NAME``."""


class _Types:
    """Turns types into schemas, and collects those that have names."""

    def __init__(self, types: Sequence[Any]) -> None:
        self.definitions: Final[dict[str, dict[str, Any]]] = {}
        plain = [kind for kind in types if not mentions_pydantic(kind)]
        try:
            # All at once, so that two types of one name get different names.
            schemas, found = msgspec.json.schema_components(plain, ref_template=_REFERENCE)
        except TypeError as exc:
            raise UsageError(f"a type has no schema: {exc}") from exc
        self.definitions.update(found)
        self._plain: Final = list(zip(plain, schemas, strict=True))

    def schema(self, kind: Any) -> dict[str, Any]:
        """Return the schema of one of the types."""
        for known, schema in self._plain:
            if known is kind:
                return schema
        return self._of_pydantic(kind)

    def _of_pydantic(self, kind: Any) -> dict[str, Any]:
        pydantic: Any = sys.modules["pydantic"]
        schema: dict[str, Any] = pydantic.TypeAdapter(kind).json_schema()
        inner = schema.pop("$defs", {})
        name = schema.get("title")
        if isinstance(kind, type) and isinstance(name, str) and schema.get("type") == "object":
            inner[name] = schema
            schema = {"$ref": _REFERENCE.format(name=name)}
        for name, found in inner.items():
            if self.definitions.setdefault(name, found) != found:
                raise UsageError(
                    f"two types are named {name}: give one of them another name, so that a schema "
                    "can tell them apart"
                )
        return schema


def declared(bus: Bus) -> Declared:
    """Return what a bus declares.

    Raises:
        UsageError: A type has no schema.
    """
    if not isinstance(bus, Bus):
        raise UsageError(f"this is no Bus, but a {type(bus).__name__}")
    channels, commands = bus.channels, host_of(bus).commands.all()
    types = [kind for channel in channels for kind in channel.events.values()]
    for command in commands:
        types += [kind for kind, _ in command.parameters.types.values()]
        types.append(command.parameters.result)
    made = _Types(types)
    return Declared(
        [
            DeclaredChannel(
                each.template,
                each.parameters,
                {event: made.schema(kind) for event, kind in each.events.items()},
                each.family,
            )
            for each in channels
        ],
        [
            DeclaredCommand(
                each.action,
                _params(each, made),
                any(is_required for _, is_required in each.parameters.types.values()),
                made.schema(each.parameters.result),
                _text(each.function),
            )
            for each in commands
        ],
        made.definitions,
    )


def _params(command: RegisteredCommand, made: _Types) -> dict[str, Any]:
    types, whole = command.parameters.types, command.parameters.whole
    if whole is not None:
        return made.schema(types[whole][0])
    defaults = inspect.signature(command.function).parameters
    return {
        "type": "object",
        "properties": {
            name: made.schema(kind) | _default(defaults[name].default)
            for name, (kind, _) in types.items()
        },
        "required": [name for name, (_, is_required) in types.items() if is_required],
    }


def _default(value: object) -> dict[str, Any]:
    """Return the member of a schema that names a default; nothing where JSON has no such value."""
    if value is inspect.Parameter.empty:
        return {}
    try:
        return {"default": msgspec.json.decode(msgspec.json.encode(value))}
    except (TypeError, ValueError):
        return {}


def _text(function: object) -> str:
    paragraph = (inspect.getdoc(function) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def json_schema(bus: Bus) -> dict[str, Any]:
    """Return the types of all channels and commands of a bus, as one JSON Schema document.

    ``channels`` has the schema of the data of each event by template and event, and ``commands``
    those of ``params`` and ``result`` by action.

    Raises:
        UsageError: A type has no schema.
    """
    found = declared(bus)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "channels": {each.template: each.events for each in found.channels},
        "commands": {
            each.action: {"params": each.params, "result": each.result} for each in found.commands
        },
        "$defs": found.definitions,
    }
