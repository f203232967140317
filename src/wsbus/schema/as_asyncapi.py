"""AsyncAPI 3: the channels of a bus, and its commands as operations with replies.

Specification: https://www.asyncapi.com/docs/reference/specification/v3.0.0. Messages are those of
``wsbus.v1``, whole, so that a reader sees what goes over the wire.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ..bus import Bus, host_of
from ..endpoint import Endpoint
from .declared import DeclaredChannel, DeclaredCommand, declared

__all__ = ["asyncapi"]

_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]+")
_REF: Final = {"type": "string", "description": "Chosen by the client; the reply repeats it."}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
}


def asyncapi(bus: Bus, *, title: str = "wsbus", version: str = "1.0.0") -> dict[str, Any]:
    """Return a bus as an AsyncAPI 3 document.

    Args:
        bus: Any bus; it need not run.
        title: The name of the application.
        version: The version of the application.

    Raises:
        UsageError: A type has no schema.
    """
    found = declared(bus)
    document: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": {},
        "operations": {},
        "components": {"schemas": found.definitions, "messages": {}},
    }
    for channel in found.channels:
        _add_channel(document, channel)
    for command in found.commands:
        _add_command(document, command)
    _add_tokens(document, host_of(bus).endpoints)
    moved: dict[str, Any] = _moved(document)
    return moved


def _add_channel(document: dict[str, Any], channel: DeclaredChannel) -> None:
    key = _key(channel.template)
    messages = {
        _key(event): _message(f"{key}.{_key(event)}", _event(channel, event, schema), document)
        for event, schema in channel.events.items()
    }
    document["channels"][key] = {
        "address": channel.template,
        "description": _abilities(channel),
        "messages": messages,
    }
    if channel.parameters:
        document["channels"][key]["parameters"] = {
            name: {"description": "One segment of the name."} for name in channel.parameters
        }
    for action, verb in (("send", "event"), ("receive", "publish")):
        document["operations"][f"{verb}.{key}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{key}"},
            "summary": {
                "send": "Events for subscribers.",
                "receive": "What clients publish, with a grant.",
            }[action],
        }


def _abilities(channel: DeclaredChannel) -> str:
    texts = ["Subscribe to it by a name or a pattern."]
    if channel.family.history is not None:
        texts.append("It keeps history: events have positions.")
    if channel.family.presence is not None:
        texts.append("It says which connections are there.")
    return " ".join(texts)


def _event(channel: DeclaredChannel, event: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "channel", "event", "data"],
        "properties": {
            "type": {"enum": ["event", "publish"]},
            "channel": {"type": "string", "description": channel.template},
            "event": {"const": event},
            "timestamp": {"type": "number", "description": "Seconds since the epoch."},
            "data": schema,
        },
    }


def _add_command(document: dict[str, Any], command: DeclaredCommand) -> None:
    key = f"command.{_key(command.action)}"
    required = ["type", "action", "id", *(["params"] if command.needs_params else [])]
    call = {
        "type": "object",
        "required": required,
        "properties": {
            "type": {"const": "command"},
            "id": _REF,
            "action": {"const": command.action},
            "params": command.params,
        },
    }
    reply = {
        "type": "object",
        "required": ["type", "id"],
        "properties": {
            "type": {"const": "response"},
            "id": _REF,
            "data": command.result,
            "error": _ERROR,
        },
    }
    document["channels"][key] = {
        "address": None,
        "description": "Over the connection itself, whatever is subscribed.",
        "messages": {
            "call": _message(f"{key}.call", call, document),
            "reply": _message(f"{key}.reply", reply, document),
        },
    }
    document["operations"][key] = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{key}"},
        "summary": command.text or f"The command {command.action}.",
        "messages": [{"$ref": f"#/channels/{key}/messages/call"}],
        "reply": {
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/reply"}],
        },
    }


def _message(name: str, payload: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    document["components"]["messages"][name] = {"name": name, "payload": payload}
    return {"$ref": f"#/components/messages/{name}"}


def _add_tokens(document: dict[str, Any], endpoints: list[Endpoint]) -> None:
    schemes: dict[str, Any] = {}
    for endpoint in endpoints:
        if endpoint.authenticator is None:
            continue
        if endpoint.header_token:
            schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        if endpoint.query_token is not None:
            name = endpoint.query_token
            schemes["query"] = {"type": "httpApiKey", "in": "query", "name": name}
        if endpoint.cookie_token is not None:
            name = endpoint.cookie_token
            schemes["cookie"] = {"type": "httpApiKey", "in": "cookie", "name": name}
    if schemes:
        document["components"]["securitySchemes"] = schemes
        references = [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes]
        for operation in document["operations"].values():
            operation["security"] = references


def _moved(value: Any) -> Any:
    """Return a document whose references are to where AsyncAPI keeps schemas."""
    if isinstance(value, dict):
        return {
            key: each.replace("#/$defs/", "#/components/schemas/", 1)
            if key == "$ref" and isinstance(each, str)
            else _moved(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_moved(each) for each in value]
    return value


def _key(text: str) -> str:
    return _UNFIT.sub("_", text).strip("_") or "_"
