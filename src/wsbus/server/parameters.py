"""The parameters of commands: those from the client's ``params``, and those from the server."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import Context
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
)

import msgspec
from msgspec.structs import asdict
from typing_extensions import TypeAliasType, is_typeddict

from .._application import call
from .._pydantic import Checked, annotations_of, is_model, is_of_pydantic, shortened
from ..core.errors import CommandError, ErrorCode, UsageError
from ..core.packing import Packed, packed_decoder, text_of, unpack
from ..core.permissions import Identity
from ..transport import Handshake

__all__ = ["Parameters", "decoder_of"]

Supply: TypeAlias = Callable[[Any], object]
"""Returns the value of a parameter for the connection that a command came from."""

_FOREIGN: Final = frozenset({"fastapi", "starlette"})
"""Frameworks whose markers for parameters have no effect in commands."""


class Parameters:
    """The parameters of one function.

    A sole parameter of an object type (a :class:`msgspec.Struct`, dataclass, ``TypedDict`` or
    ``dict``) takes all of ``params``; any other parameters each take the key of their name. The
    server supplies those that are annotated with the class of connections, ``Identity`` or
    ``Handshake``, also as ``… | None`` or ``Annotated[…]``; no client can.

    msgspec decodes and checks them, except parameters whose types contain a type of pydantic (a
    model, ``Annotated[…, Field(…)]``): pydantic decodes and checks those.

    Args:
        what: The command's name in errors.
        function: The application's function.
        caller: The class of connections.

    Raises:
        UsageError: ``params`` cannot be passed to such a function; the error names the parameter
            and says what to write.
    """

    __slots__ = (
        "_checks",
        "_decoder",
        "_packed",
        "_shape",
        "_supplies",
        "result",
        "types",
        "whole",
    )

    def __init__(self, what: str, function: Callable[..., Any], caller: type) -> None:
        supplies: dict[object, Supply] = {
            caller: lambda connection: connection,
            Identity: attrgetter("identity"),
            Handshake: attrgetter("handshake"),
        }
        hints = _hints(what, function)
        self.result: Final[Any] = hints.get("return", Any)
        """The type that the function says it returns."""
        parameters = _named(what, function)
        self._supplies: Final[dict[str, Supply]] = {}
        taken: dict[str, Any] = {}
        checked: dict[str, str] = {}
        for name, parameter in parameters.items():
            hint = hints.get(name, Any)
            where = f"{what}: the parameter {name!r}"
            _refuse_default(where, parameter.default)
            supply = supplies.get(_without_none(hint))
            if supply is not None:
                for _, metadata in _annotations(hint):
                    _refuse_foreign(where, metadata)
                self._supplies[name] = supply
                continue
            taken[name] = hint
            if _Survey(where, supplies).is_for_pydantic(hint):
                checked[name] = where
            else:
                _check_decodable(where, hint)
        empty = inspect.Parameter.empty
        self.types: Final[dict[str, tuple[Any, bool]]] = {
            name: (hint, parameters[name].default is empty) for name, hint in taken.items()
        }
        """The type of each parameter that the client sends, and whether it must."""
        sole = next(iter(taken)) if len(taken) == 1 else None
        self.whole: Final = sole if sole is not None and _is_object(taken[sole]) else None
        """The name of the parameter that takes all of ``params``; None: there is none."""
        self._checks: Final[dict[str, Checked]] = {}
        self._packed: msgspec.msgpack.Decoder[Any] | None = None
        for name, where in checked.items():
            place = "$.params" if name == self.whole else f"$.params.{name}"
            self._checks[name] = Checked(where, taken[name], place)
            taken[name] = msgspec.Raw
        try:
            shape = taken[sole] if sole and self.whole else _shape(parameters, taken)
            self._decoder: Final = msgspec.json.Decoder(shape)
            self._shape: Final = shape
        except (TypeError, ValueError, RecursionError) as exc:
            raise UsageError(f"{what}: {exc}") from exc

    def arguments(self, params: bytes, caller: object, context: Context) -> dict[str, Any]:
        """Return the keyword arguments for one call.

        Args:
            params: JSON text, or :class:`.Packed`.
            caller: The connection that the command came from.
            context: The connection's context; validators of the application run in a copy.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place.
            Exception: A validator failed.
        """
        try:
            if type(params) is Packed:
                decoded = self._unpacked.decode(params)
            else:
                decoded = self._decoder.decode(params)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            raise CommandError(ErrorCode.VALIDATION_ERROR, _placed(str(exc))) from None
        arguments = asdict(decoded) if self.whole is None else {self.whole: decoded}
        if self._checks:
            call(context, self._check, arguments, type(params) is Packed)
        if self._supplies:
            for name, supply in self._supplies.items():
                arguments[name] = supply(caller)
        return arguments

    @property
    def _unpacked(self) -> msgspec.msgpack.Decoder[Any]:
        """The decoder of MessagePack, made on first use."""
        if self._packed is None:
            self._packed = packed_decoder(self._shape)
        return self._packed

    def _check(self, arguments: dict[str, Any], is_packed: bool) -> None:  # noqa: FBT001
        """Have pydantic decode, from JSON, what is for it."""
        for name, check in self._checks.items():
            value = arguments[name]
            if isinstance(value, msgspec.Raw):  # Otherwise the default applies.
                raw = bytes(value)
                arguments[name] = check(text_of(unpack(raw)) if is_packed else raw)


def decoder_of(where: str, hint: Any, place: str) -> Callable[[bytes], Any]:
    """Return a function that decodes JSON into a type, and checks it.

    msgspec does that, or pydantic where the type contains one of its own. The function raises
    :class:`.CommandError` (``VALIDATION_ERROR``) with the place of the fault.

    Args:
        where: The data's name in errors.
        hint: The type.
        place: The data's place, as replies name it: ``$.data``.

    Raises:
        UsageError: JSON cannot be decoded into the type.
    """
    if _Survey(where, {}).is_for_pydantic(hint):
        return Checked(where, hint, place)
    _check_decodable(where, hint)
    decode = msgspec.json.Decoder(hint).decode

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            raise CommandError(ErrorCode.VALIDATION_ERROR, _placed(str(exc), place)) from None

    return decoded


def _placed(message: str, within: str = "$.params") -> str:
    """Replace msgspec's place, ``$.x``, by the place in the client's message: ``$.params.x``."""
    text, found, place = message.rpartition("`$")
    return f"{shortened(text)}`{within}{place}" if found else f"{message} - at `{within}`"


# --- registering ----------------------------------------------------------------------------------


def _hints(what: str, of: Any) -> dict[str, Any]:
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


def _named(what: str, function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # Some functions written in C have no signature.
        raise UsageError(f"{what} does not tell its parameters; wrap it in a def") from None
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


def _refuse_default(where: str, default: object) -> None:
    _refuse_foreign(where, default)
    if is_of_pydantic(default) and type(default).__name__ == "FieldInfo":
        raise UsageError(f"{where} has Field(…) for a default; write Annotated[…, Field(…)] = …")


class _Survey:
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
            for name, inner in _hints(where, kind).items():
                self._look(f"{where}, its field {name!r},", inner)
        elif issubclass(kind, msgspec.Raw):
            self._found.setdefault("msgspec", kind.__name__)

    def _note(self, where: str, annotations: Iterable[object]) -> None:
        for metadata in annotations:
            _refuse_foreign(where, metadata)
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
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = get_origin(hint) or hint
    return (
        is_typeddict(kind)
        or is_model(kind)
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
