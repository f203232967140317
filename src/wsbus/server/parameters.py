"""The parameters of commands: those from the client's ``params``, and those from the server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import Context
from operator import attrgetter
from typing import (
    Any,
    Final,
)

import msgspec
from msgspec.structs import asdict

from .._application import call
from .._pydantic import Checked, is_of_pydantic, shortened
from ..core.errors import CommandError, ErrorCode, UsageError
from ..core.packing import Packed, packed_decoder, text_of, unpack
from ..core.permissions import Identity
from ..transport import Handshake
from .survey import (
    Supply,
    Survey,
    annotations_in,
    check_decodable,
    hints_of,
    is_object,
    refuse_foreign,
    without_none,
)

__all__ = ["Parameters", "decoder_of"]


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
        hints = hints_of(what, function)
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
            supply = supplies.get(without_none(hint))
            if supply is not None:
                for _, metadata in annotations_in(hint):
                    refuse_foreign(where, metadata)
                self._supplies[name] = supply
                continue
            taken[name] = hint
            if Survey(where, supplies).is_for_pydantic(hint):
                checked[name] = where
            else:
                check_decodable(where, hint)
        empty = inspect.Parameter.empty
        self.types: Final[dict[str, tuple[Any, bool]]] = {
            name: (hint, parameters[name].default is empty) for name, hint in taken.items()
        }
        """The type of each parameter that the client sends, and whether it must."""
        sole = next(iter(taken)) if len(taken) == 1 else None
        self.whole: Final = sole if sole is not None and is_object(taken[sole]) else None
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
    if Survey(where, {}).is_for_pydantic(hint):
        return Checked(where, hint, place)
    check_decodable(where, hint)
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


def _refuse_default(where: str, default: object) -> None:
    refuse_foreign(where, default)
    if is_of_pydantic(default) and type(default).__name__ == "FieldInfo":
        raise UsageError(f"{where} has Field(…) for a default; write Annotated[…, Field(…)] = …")


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
