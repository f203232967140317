"""Every public name is documented and exists; no file outgrows its reader."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Final

import pytest

import wsbus
from wsbus import Bus, Connection

SOURCE: Final = Path(wsbus.__file__).parent
TESTS: Final = Path(__file__).parents[1]
MAX_LINES: Final = 400


def module_names() -> Iterator[str]:
    """Yield the public modules of wsbus."""
    yield wsbus.__name__
    for found in pkgutil.walk_packages([str(SOURCE)], prefix="wsbus."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield found.name


def public_members(owner: ModuleType | type) -> Iterator[tuple[str, object]]:
    """Yield what ``owner`` itself defines: not inherited, not imported, no underscore."""
    home = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    for name, attribute in vars(owner).items():
        value = unwrapped(attribute)
        if name.startswith("_") or not isinstance(value, type | FunctionType):
            continue
        if value.__module__ == home:
            yield name, value


def unwrapped(attribute: object) -> object:
    """Return what a descriptor of a class was made from."""
    match attribute:
        case staticmethod() | classmethod():
            return attribute.__func__
        case property():
            return attribute.fget
        case cached_property():
            return attribute.func
        case _:
            return attribute


def undocumented(owner: ModuleType | type, path: str) -> Iterator[str]:
    """Yield the public names in ``owner``, and in its classes, that have no docstring."""
    for name, value in public_members(owner):
        where = f"{path}.{name}"
        if not inspect.getdoc(value) and not overrides(owner, name):
            yield where
        if isinstance(value, type):
            yield from undocumented(value, where)


def overrides(owner: ModuleType | type, name: str) -> bool:
    """Tell whether a base of ``owner`` documents ``name``, which then speaks for it too."""
    return isinstance(owner, type) and any(
        inspect.getdoc(vars(base).get(name)) for base in owner.__mro__[1:]
    )


@pytest.mark.parametrize("name", list(module_names()))
def test_every_public_name_is_documented(name: str) -> None:
    """Each public module, class, function, method and property has a docstring."""
    module = importlib.import_module(name)

    assert module.__doc__
    assert list(undocumented(module, name)) == []


@pytest.mark.parametrize("name", list(module_names()))
def test_every_exported_name_exists(name: str) -> None:
    """What ``__all__`` lists is there, once."""
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])

    assert [name for name in exported if not hasattr(module, name)] == []
    assert len(exported) == len(set(exported))


def test_no_file_outgrows_its_reader() -> None:
    """A source file has at most 400 lines."""
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCE.rglob("*.py")
    }

    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_every_test_states_its_law() -> None:
    """Each test function says in its docstring what must hold."""
    silent = [
        f"{path.relative_to(TESTS)}:{node.lineno} {node.name}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def test_an_application_holds_a_connection_and_no_machinery() -> None:
    """What handlers and hooks are given has these public names; its driver is another object."""
    assert {name for name in dir(Connection) if not name.startswith("_")} == {
        "abort",
        "close_code",
        "close_reason",
        "connected_at",
        "context",
        "disconnect",
        "endpoint",
        "handshake",
        "id",
        "identity",
        "info",
        "messages_received",
        "revoke",
        "state",
        "subscribe",
        "unsubscribe",
    }
    assert Connection.__mro__ == (Connection, object)


def test_an_application_holds_a_bus_and_no_machinery() -> None:
    """What runs a bus for endpoints and adapters is another object, which endpoints are made with.

    The names are those that set up, those that publish, and those of connections.
    """
    names = {name for name in dir(Bus) if not name.startswith("_")}
    publishes = {name for name in names if name.startswith(("publish", "send", "broadcast"))}
    hooks = {name for name in names if name.startswith("on_")}

    assert names - publishes - hooks == {
        "aclose",
        "channel",
        "channels",
        "cancel_stream",
        "command",
        "connection",
        "connections",
        "default_endpoint",
        "disconnect",
        "drain",
        "endpoint",
        "family",
        "healthy",
        "history",
        "is_running",
        "position",
        "presence",
        "read_stream",
        "revoke",
        "statistics",
        "stream",
        "subscribe",
        "local_subscribers",
        "nodes",
    }
    assert hooks == {
        "on_authenticated",
        "on_connect",
        "on_disconnect",
        "on_occupied",
        "on_subscribe",
        "on_unsubscribe",
        "on_vacated",
    }
    assert publishes == {
        "broadcast",
        "publish",
        "publish_soon",
        "publish_threadsafe",
        "send",
        "send_soon",
        "send_threadsafe",
    }
