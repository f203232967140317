"""TypeScript: types for the users of ``wsbus.js``, made from the schemas of a bus."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ..bus import Bus
from .declared import Declared, declared

__all__ = ["typescript"]

_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*").fullmatch
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_$]+")
_PARAMETER: Final = re.compile(r"\{[^{}]*\}")
_PRIMITIVES: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}

_HEAD: Final = """\
// Made by `wsbus schema --format typescript`; do not edit.
import type { BusEvent, Client, Receipt, RequestOptions } from "%s";

"""

_TAIL: Final = """
/** The names of channels. */
export type ChannelName = Channels[keyof Channels]["name"];
type Holding<Name extends string> = {
  [T in keyof Channels]: Name extends Channels[T]["name"] ? T : never;
}[keyof Channels];
type Events<T extends keyof Channels> = {
  [E in keyof Channels[T]["events"] & string]: BusEvent<Channels[T]["events"][E]> & { event: E };
}[keyof Channels[T]["events"] & string];
/** The events of a channel, or of a pattern that has the segments of one template; else any. */
export type EventOf<Name extends string> = [Holding<Name>] extends [never]
  ? BusEvent
  : Holding<Name> extends infer T extends keyof Channels
    ? T extends keyof Channels ? Events<T> : never
    : never;
type Params<A extends keyof Commands> = Commands[A]["params"];
type EventsOptions = Parameters<Client["events"]>[1];
type HandlerOptions = Parameters<Client["on"]>[2];

/** A client of this application: `const client = new Client("/ws") as AppClient`. */
export interface AppClient
  extends Omit<Client, "on" | "events" | "command" | "publish"> {
  /** Only for other types, such as those of the hooks for React: there is no such property. */
  readonly "~types"?: { channels: Channels; commands: Commands };
  on<Name extends string>(
    pattern: Name, handler: (event: EventOf<Name>) => unknown, options?: HandlerOptions,
  ): () => void;
  events<Name extends string>(
    pattern: Name, options?: EventsOptions,
  ): AsyncIterableIterator<EventOf<Name>>;
  command<A extends keyof Commands>(
    action: A,
    ...rest: {} extends Params<A>
      ? [params?: Params<A>, options?: RequestOptions]
      : [params: Params<A>, options?: RequestOptions]
  ): Promise<Commands[A]["result"]>;
  publish<Name extends ChannelName, E extends EventOf<Name>["event"]>(
    channel: Name,
    data: Extract<EventOf<Name>, { event: E }>["data"],
    options: RequestOptions & { event: E; idempotencyKey?: string },
  ): Promise<Receipt>;
}
"""


def typescript(bus: Bus, *, module: str = "./wsbus.js") -> str:
    """Return a module of types for a bus: its data, channels, commands, and ``AppClient``.

    Args:
        bus: Any bus; it need not run.
        module: Where ``wsbus.js`` is imported from.

    Raises:
        UsageError: A type has no schema.
    """
    found = declared(bus)
    writer = _Writer(found)
    parts = [_HEAD % module]
    for name, schema in sorted(found.definitions.items()):
        parts.append(writer.definition(name, schema))
    parts.append("\nexport interface Channels {\n")
    for channel in found.channels:
        name = _PARAMETER.sub("${string}", channel.template.replace("`", "\\`"))
        parts.append(f"  {json.dumps(channel.template)}: {{\n    name: `{name}`;\n    events: {{\n")
        parts += [
            f"      {_property(event)}: {writer.kind(schema)};\n"
            for event, schema in channel.events.items()
        ]
        parts.append("    };\n  };\n")
    parts.append("}\n\nexport interface Commands {\n")
    for command in found.commands:
        if command.text:
            parts.append(f"  /** {_comment(command.text)} */\n")
        params, result = writer.kind(command.params), writer.kind(command.result)
        parts.append(f"  {json.dumps(command.action)}: {{ params: {params}; result: {result} }};\n")
    parts += ["}\n", _TAIL]
    return "".join(parts)


class _Writer:
    def __init__(self, found: Declared) -> None:
        taken = {"AppClient", "BusEvent", "Channels", "ChannelName", "Client", "Commands"}
        taken |= {"EventOf", "Events", "EventsOptions", "HandlerOptions", "Holding", "Params"}
        taken |= {"Receipt", "RequestOptions", "Array", "Record"}
        self._names: Final[dict[str, str]] = {}
        for name in found.definitions:
            made = _UNFIT.sub("_", name)
            made = made if _NAME(made) else f"_{made}"
            while made in taken:
                made += "_"
            taken.add(made)
            self._names[name] = made

    def definition(self, name: str, schema: dict[str, Any]) -> str:
        text = schema.get("description")
        comment = f"/** {_comment(text)} */\n" if isinstance(text, str) and text else ""
        return f"{comment}export type {self._names[name]} = {self.kind(schema)};\n"

    def kind(self, schema: Any) -> str:
        """Return a type; what TypeScript cannot say becomes a wider one."""
        if schema is True or not isinstance(schema, dict):
            return "unknown"
        if "$ref" in schema:
            return self._names[schema["$ref"].rpartition("/")[2]]
        if "const" in schema:
            return json.dumps(schema["const"])
        if "enum" in schema:
            return " | ".join(json.dumps(each) for each in schema["enum"]) or "never"
        for word, sign in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
            if word in schema:
                kinds = dict.fromkeys(self.kind(each) for each in schema[word])
                return f"({sign.join(kinds)})" if len(kinds) > 1 else next(iter(kinds), "unknown")
        kind = schema.get("type")
        if isinstance(kind, list):
            return " | ".join(self.kind({**schema, "type": each}) for each in kind)
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        return _PRIMITIVES.get(str(kind), "unknown")

    def _array(self, schema: dict[str, Any]) -> str:
        prefix = schema.get("prefixItems")
        if prefix:
            return f"[{', '.join(self.kind(each) for each in prefix)}]"
        return f"Array<{self.kind(schema.get('items'))}>"

    def _object(self, schema: dict[str, Any]) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not properties:
            rest = schema.get("additionalProperties", True)
            return "{}" if rest is False else f"Record<string, {self.kind(rest)}>"
        fields = [
            f"{_property(name)}{'' if name in required else '?'}: {self.kind(each)}"
            for name, each in properties.items()
        ]
        return f"{{ {'; '.join(fields)} }}"


def _property(name: str) -> str:
    return name if _NAME(name) else json.dumps(name)


def _comment(text: str) -> str:
    return " ".join(text.split()).replace("*/", "*\\/")
