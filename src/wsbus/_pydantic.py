"""Decoding and checking with pydantic, in applications that use it; it is not imported here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, Final, get_args

from .core.errors import CommandError, ErrorCode, UsageError

__all__ = [
    "Checked",
    "annotations_of",
    "is_model",
    "is_of_pydantic",
    "mentions_pydantic",
    "shortened",
]

_ROOTS: Final = frozenset({"pydantic", "pydantic_core", "annotated_types"})
_MAX_ERRORS: Final = 5
"""Errors listed in one reply; the others are counted."""
_MAX_WORD: Final = 40
_MAX_TEXT: Final = 200
_LONG_WORD: Final = re.compile(rf"(\S{{{_MAX_WORD}}})\S+")


def is_of_pydantic(found: Any) -> bool:
    """Tell whether pydantic gives a class, or an annotation, its meaning."""
    if hasattr(found, "__pydantic_validator__") or hasattr(found, "__get_pydantic_core_schema__"):
        return True
    kind = found if isinstance(found, type) else type(found)
    return kind.__module__.partition(".")[0] in _ROOTS


def mentions_pydantic(hint: Any) -> bool:
    """Tell whether a type contains a type of pydantic, as ``list[Model]`` does."""
    annotations = getattr(hint, "__metadata__", ())
    return is_of_pydantic(hint) or any(map(mentions_pydantic, (*get_args(hint), *annotations)))


def is_model(kind: Any) -> bool:
    """Tell whether a model is an object in JSON; one that wraps a list, for example, is not."""
    return hasattr(kind, "__pydantic_root_model__") and not kind.__pydantic_root_model__


def annotations_of(kind: Any) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield the name, type and further annotations of each field of a model."""
    fields = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "model_fields", None) or {}
    for name, field in fields.items():
        yield name, field.annotation, field.metadata


class Checked:
    """Decodes and checks data as pydantic does, in its lax mode.

    Args:
        where: The data's name in errors: a parameter of a command, for example.
        hint: The type.
        place: The data's place, as replies name it: ``$.params.order``.

    Raises:
        UsageError: pydantic cannot check such a type, or not all of it.
    """

    __slots__ = ("_error", "_place", "_validate")

    def __init__(self, where: str, hint: Any, place: str) -> None:
        pydantic: Any = sys.modules.get("pydantic")
        if pydantic is None:
            raise UsageError(
                f"{where} has a check that pydantic would make, and the application does not "
                "import it; write Annotated[…, msgspec.Meta(…)]"
            )
        for metadata in getattr(hint, "__metadata__", ()):
            _refuse_settings(where, metadata)
        try:
            adapter = pydantic.TypeAdapter(hint)
            is_complete = getattr(adapter, "pydantic_complete", True)
        except Exception as exc:
            why = str(exc).partition("\n")[0]
            raise UsageError(f"{where} cannot be checked by pydantic: {why}") from exc
        if not is_complete:
            raise UsageError(
                f"{where} cannot be checked by pydantic: a type that it names is not defined yet"
            )
        self._error: Final[type[Exception]] = pydantic.ValidationError
        self._validate: Final = adapter.validate_json
        self._place: Final = place

    def __call__(self, json: bytes) -> Any:
        """Return the value.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with each place.
            Exception: Any other that a validator of the application raises.
        """
        try:
            return self._validate(json)
        except self._error as exc:
            raise CommandError(ErrorCode.VALIDATION_ERROR, self._told(exc)) from None

    def _told(self, exc: Any) -> str:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        told = [
            f"{shortened(error['msg'])} - at `{self._place}{''.join(map(_step, error['loc']))}`"
            for error in errors[:_MAX_ERRORS]
        ]
        more = len(errors) - _MAX_ERRORS
        return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _refuse_settings(where: str, metadata: Any) -> None:
    """Refuse settings of ``Field(…)`` that have no effect on a parameter."""
    is_required = getattr(metadata, "is_required", None)
    if is_required is None:
        return
    if not is_required():
        raise UsageError(f"{where} has its default in Field(…); write it after the annotation")
    if metadata.validation_alias is not None:
        raise UsageError(
            f"{where} has an alias in Field(…); parameters go by their names: take a model"
        )


def _step(part: int | str) -> str:
    """Return a part of a place; as in msgspec, keys that look like data are not shown."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() and len(part) <= _MAX_WORD else "[...]"


def shortened(text: str) -> str:
    """Return a text, cut so that it does not repeat long data of a client."""
    text = _LONG_WORD.sub(r"\1…", text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
