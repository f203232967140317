"""The types that applications write in annotations: what is in them, and what cannot work."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from typing_extensions import TypeAliasType, is_typeddict

from .._pydantic import annotations_of, is_model, is_of_pydantic
from ..core.errors import UsageError

__all__ = [
    "Supply",
    "Survey",
    "annotations_in",
    "check_decodable",
    "hints_of",
    "is_object",
    "refuse_foreign",
    "without_none",
]

Supply: TypeAlias = Callable[[Any], object]
"""Returns the value of a parameter for the connection that a command came from."""

_FOREIGN: Final = frozenset({"fastapi", "starlette"})
"""Frameworks whose markers for parameters have no effect in commands."""


def hints_of(what: str, of: Any) -> dict[str, Any]:
    """Return the annotations of a function or class, evaluated.

    Raises:
        UsageError: One of them is no type.
    """
    of = getattr(of, "func", of)
    if not (inspect.isroutine(of) or isinstance(of, type)):
        of = of.__call__  # A callable object.
    try:
        return get_type_hints(of, include_extras=True)
    except NameError as exc:
        raise UsageError(
            f"{what}: {exc}; types must be global names, imported when the program runs "
            "(not below `if TYPE_CHECKING`)"
        ) from exc
    except TypeError as exc:
        raise UsageError(f"{what}: an annotation is not a type: {exc}") from exc


def without_none(hint: Any) -> Any:
    """Return the type within ``Annotated[…]``, ``… | None`` and aliases."""
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif isinstance(hint, TypeAliasType):
            hint = hint.__value__
        elif get_origin(hint) in (Union, types.UnionType):
            rest = [arg for arg in get_args(hint) if arg is not type(None)]
            if len(rest) != 1:
                return None
            hint = rest[0]
        else:
            return hint if isinstance(hint, type) else None


def annotations_in(hint: Any) -> Iterator[tuple[Any, object]]:
    """Yield each type that is annotated inside ``hint``, with each of the annotations."""
    if get_origin(hint) is Annotated:
        for metadata in hint.__metadata__:
            yield hint, metadata
    if get_origin(hint) is not Literal:
        for arg in get_args(hint):
            yield from annotations_in(arg)


def refuse_foreign(where: str, found: object) -> None:
    """Refuse a marker of a framework, which has no effect here."""
    root = type(found).__module__.partition(".")[0]
    if root in _FOREIGN:
        name = type(found).__qualname__
        raise UsageError(
            f"{where} has {name}(…) of {root}, which is not looked at in commands; take what the "
            "client sends, `Connection`, `Identity` or `Handshake`, and call the rest yourself"
        )


class Survey:
    """The types within the type of one parameter, at any depth.

    It refuses types that would not do what they say.
    """

    def __init__(self, where: str, supplies: Mapping[object, Supply]) -> None:
        self._where: Final = where
        self._supplies: Final = supplies
        self._seen: Final[set[Any]] = set()
        self._found: Final[dict[str, str]] = {}  # The library → its first type.

    def is_for_pydantic(self, hint: Any) -> bool:
        """Tell whether pydantic has to decode the parameter; if not, msgspec does."""
        self._look(self._where, hint)
        ours, theirs = self._found.get("msgspec"), self._found.get("pydantic")
        if ours is not None and theirs is not None:
            raise UsageError(
                f"{self._where} has both {theirs} of pydantic and {ours} of msgspec, and neither "
                "makes the checks of the other; write both with one of the two, or take them as "
                "two parameters"
            )
        return theirs is not None

    def _look(self, where: str, hint: Any) -> None:
        if isinstance(hint, TypeAliasType):
            hint = hint.__value__
        hint = getattr(hint, "__supertype__", hint)  # A NewType's.
        origin = get_origin(hint)
        if origin is Annotated:
            self._note(where, hint.__metadata__)
        elif origin is Literal:
            return
        for arg in get_args(hint):
            if isinstance(arg, type) or get_origin(arg) or isinstance(arg, TypeAliasType):
                self._look(where, arg)
        kind = origin if isinstance(origin, type) else hint
        if isinstance(kind, type) and kind not in self._seen:
            self._seen.add(kind)
            self._look_into(where, kind)

    def _look_into(self, where: str, kind: type) -> None:
        _refuse_class(where, kind, self._supplies)
        if is_of_pydantic(kind):
            self._found.setdefault("pydantic", kind.__name__)
            for name, inner, metadata in annotations_of(kind):
                self._note(where, metadata)
                self._look(f"{where}, its field {name!r},", inner)
        elif _has_fields(kind):
            if issubclass(kind, msgspec.Struct):
                self._found.setdefault("msgspec", kind.__name__)
            for name, inner in hints_of(where, kind).items():
                self._look(f"{where}, its field {name!r},", inner)
        elif issubclass(kind, msgspec.Raw):
            self._found.setdefault("msgspec", kind.__name__)

    def _note(self, where: str, annotations: Iterable[object]) -> None:
        for metadata in annotations:
            refuse_foreign(where, metadata)
            if is_of_pydantic(metadata):
                self._found.setdefault("pydantic", f"{type(metadata).__name__}(…)")
            elif isinstance(metadata, msgspec.Meta):
                self._found.setdefault("msgspec", "Meta(…)")


def _refuse_class(where: str, kind: type, supplies: Mapping[object, Supply]) -> None:
    name, root = kind.__name__, kind.__module__.partition(".")[0]
    if any(isinstance(supplied, type) and issubclass(kind, supplied) for supplied in supplies):
        raise UsageError(
            f"{where} has {name} inside another type, where a client would have to send it; the "
            "server supplies it to a parameter of that type itself"
        )
    if root in _FOREIGN:
        raise UsageError(
            f"{where} has the type {name} of {root}, and there is none in a command; take "
            "`Connection`, `Identity` or `Handshake`"
        )


def _has_fields(kind: type) -> bool:
    if is_typeddict(kind):
        return True
    return (is_object(kind) and not issubclass(kind, Mapping)) or hasattr(kind, "_fields")


def check_decodable(where: str, hint: Any) -> None:
    """Refuse a type that JSON cannot be decoded into."""
    try:
        for kind in _undecodable(msgspec.inspect.type_info(hint), set()):
            name = getattr(kind, "__name__", repr(kind))
            raise UsageError(
                f"{where} has the type {name}, which JSON cannot be decoded into; write a type "
                "that msgspec knows: int, str, list[…], a msgspec.Struct, a dataclass, a TypedDict"
            )
        msgspec.json.Decoder(hint)
    except (TypeError, ValueError, RecursionError) as exc:
        raise UsageError(f"{where} cannot be decoded from JSON: {exc}") from exc


def _undecodable(info: object, seen: set[int]) -> Iterator[Any]:
    """Yield the classes in a type, at any depth, that msgspec leaves to hooks."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    elif isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)):
        for name in info.__struct_fields__:
            yield from _undecodable(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for part in info:
            yield from _undecodable(part, seen)


def is_object(hint: Any) -> bool:
    """Tell whether a type is an object in JSON."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = get_origin(hint) or hint
    return (
        is_typeddict(kind)
        or is_model(kind)
        or dataclasses.is_dataclass(kind)
        or (isinstance(kind, type) and issubclass(kind, msgspec.Struct | Mapping))
    )
