"""What a command takes: from the client's ``params``, and from the server."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
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
    is_typeddict,
)

import msgspec
from msgspec.structs import asdict
from typing_extensions import TypeAliasType

from .core.errors import CommandError, ErrorCode, UsageError
from .core.permissions import Identity
from .transport import Handshake

__all__ = ["Parameters"]

Supply: TypeAlias = Callable[[Any], object]
"""Finds, with the connection that a command came from, what a parameter gets."""

_FOREIGN: Final = frozenset({"fastapi", "starlette", "pydantic", "pydantic_core"})
"""Whose objects say how *they* would find or check a value; commands do not look at them."""


class Parameters:
    """The parameters of one function.

    A sole parameter of an object type (a :class:`msgspec.Struct`, dataclass, ``TypedDict`` or
    ``dict``) takes all of ``params``; any other parameters each take the key of their name. The
    server supplies those that are annotated with the class of connections, ``Identity`` or
    ``Handshake``, also as ``… | None`` or ``Annotated[…]``; no client can.

    Args:
        what: Names the command in errors.
        function: The application's.
        caller: The class of connections.

    Raises:
        UsageError: ``params`` cannot be spread over such a function; it names the parameter and
            says what to write.
    """

    __slots__ = ("_decoder", "_supplies", "_whole")

    def __init__(self, what: str, function: Callable[..., Any], caller: type) -> None:
        supplies: dict[object, Supply] = {
            caller: lambda connection: connection,
            Identity: attrgetter("identity"),
            Handshake: attrgetter("handshake"),
        }
        hints = _hints(what, function)
        parameters = _named(what, function)
        self._supplies: Final[dict[str, Supply]] = {}
        taken: dict[str, Any] = {}
        for name, parameter in parameters.items():
            hint = hints.get(name, Any)
            where = f"{what}: the parameter {name!r}"
            _refuse_foreign(where, parameter.default)
            supply = supplies.get(_without_none(hint))
            if supply is not None:
                for _, metadata in _annotations(hint):
                    _refuse_foreign(where, metadata)
                self._supplies[name] = supply
            else:
                _check(where, hint, supplies, set())
                _check_decodable(where, hint)
                taken[name] = hint
        sole = next(iter(taken)) if len(taken) == 1 else None
        self._whole: Final = sole if sole is not None and _is_object(taken[sole]) else None
        try:
            shape = taken[sole] if sole and self._whole else _shape(parameters, taken)
            self._decoder: Final = msgspec.json.Decoder(shape)
        except (TypeError, ValueError, RecursionError) as exc:
            raise UsageError(f"{what}: {exc}") from exc

    def arguments(self, params: bytes, caller: object) -> dict[str, Any]:
        """Return the keyword arguments for one call.

        Args:
            params: JSON text.
            caller: The connection that the command came from.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place.
        """
        try:
            decoded = self._decoder.decode(params)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            raise CommandError(ErrorCode.VALIDATION_ERROR, _placed(str(exc))) from None
        arguments = asdict(decoded) if self._whole is None else {self._whole: decoded}
        if self._supplies:
            for name, supply in self._supplies.items():
                arguments[name] = supply(caller)
        return arguments


def _placed(message: str) -> str:
    """Put the place that msgspec names, ``$.x``, where the client sees it: ``$.params.x``."""
    text, found, place = message.rpartition("`$")
    return f"{text}`$.params{place}" if found else f"{message} - at `$.params`"


# --- registering ----------------------------------------------------------------------------------


def _hints(what: str, of: Any) -> dict[str, Any]:
    of = getattr(of, "func", of)
    if not (inspect.isroutine(of) or isinstance(of, type)):
        of = of.__call__  # An object that can be called.
    try:
        return get_type_hints(of, include_extras=True)
    except NameError as exc:
        raise UsageError(
            f"{what}: {exc}; types must be global names, imported when the program runs "
            "(not below `if TYPE_CHECKING`)"
        ) from exc
    except TypeError as exc:
        raise UsageError(f"{what}: an annotation is not a type: {exc}") from exc


def _named(what: str, function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    for name, p in parameters.items():
        if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise UsageError(
                f"{what}: the parameter {name!r} has no name that a client could say; write "
                "parameters that can be given by name"
            )
        if name == "self":
            raise UsageError(
                f"{what} is a method; register the method of an object: "
                'bus.command("name")(thing.method)'
            )
    return dict(parameters)


def _without_none(hint: Any) -> Any:
    """Return the type that remains of ``Annotated[…]``, ``… | None`` and aliases."""
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


def _annotations(hint: Any) -> Iterator[tuple[Any, object]]:
    """Yield each type that is annotated inside ``hint``, with each of the annotations."""
    if get_origin(hint) is Annotated:
        for metadata in hint.__metadata__:
            yield hint, metadata
    if get_origin(hint) is not Literal:
        for arg in get_args(hint):
            yield from _annotations(arg)


def _refuse_foreign(where: str, found: object) -> None:
    root = type(found).__module__.partition(".")[0]
    if root in _FOREIGN:
        name = type(found).__qualname__
        raise UsageError(
            f"{where} has {name}(…) of {root}, which is not looked at in commands; take what the "
            "client sends, `Connection`, `Identity` or `Handshake`, and call the rest yourself"
        )


def _check(where: str, hint: Any, supplies: Mapping[object, Supply], seen: set[Any]) -> None:
    """Refuse types, at any depth, whose meaning would be lost."""
    if isinstance(hint, TypeAliasType):
        hint = hint.__value__
    hint = getattr(hint, "__supertype__", hint)  # A NewType's.
    origin = get_origin(hint)
    if origin is Annotated:
        for metadata in hint.__metadata__:
            _refuse_check(where, metadata)
    elif origin is Literal:
        return
    for arg in get_args(hint):
        if isinstance(arg, type) or get_origin(arg) or isinstance(arg, TypeAliasType):
            _check(where, arg, supplies, seen)
    kind = origin if isinstance(origin, type) else hint
    if isinstance(kind, type) and kind not in seen:
        seen.add(kind)
        _refuse_class(where, kind, supplies)
        if _has_fields(kind):
            for name, inner in _hints(where, kind).items():
                _check(f"{where}, its field {name!r},", inner, supplies, seen)


def _refuse_check(where: str, metadata: object) -> None:
    root = type(metadata).__module__.partition(".")[0]
    if root in {"pydantic", "annotated_types"}:
        raise UsageError(
            f"{where} has a check of {root}, which would not be made; write "
            "Annotated[…, msgspec.Meta(…)]"
        )
    _refuse_foreign(where, metadata)


def _refuse_class(where: str, kind: type, supplies: Mapping[object, Supply]) -> None:
    name, root = kind.__name__, kind.__module__.partition(".")[0]
    if any(isinstance(supplied, type) and issubclass(kind, supplied) for supplied in supplies):
        raise UsageError(
            f"{where} has {name} inside another type, where a client would have to send it; the "
            "server supplies it to a parameter of that type itself"
        )
    if root in {"fastapi", "starlette"}:
        raise UsageError(
            f"{where} has the type {name} of {root}, and there is none in a command; take "
            "`Connection`, `Identity` or `Handshake`"
        )
    if hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__"):
        raise UsageError(
            f"{where} has the type {name} of pydantic, which is not decoded here; write a "
            "msgspec.Struct, a dataclass or a TypedDict, or take a dict and call "
            f"{name}.model_validate yourself"
        )


def _has_fields(kind: type) -> bool:
    return (_is_object(kind) and not issubclass(kind, Mapping)) or hasattr(kind, "_fields")


def _check_decodable(where: str, hint: Any) -> None:
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


def _is_object(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return (
        is_typeddict(kind)
        or dataclasses.is_dataclass(kind)
        or (isinstance(kind, type) and issubclass(kind, msgspec.Struct | Mapping))
    )


def _shape(
    parameters: Mapping[str, inspect.Parameter], taken: Mapping[str, Any]
) -> type[msgspec.Struct]:
    fields = [
        (name, hint)
        if parameters[name].default is inspect.Parameter.empty
        else (name, hint, parameters[name].default)
        for name, hint in taken.items()
    ]
    return msgspec.defstruct("params", fields, kw_only=True)
