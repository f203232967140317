"""Publishing over HTTP, for every framework: from a request's parts to an answer.

The form is the reference page's: ``POST``, ``Authorization: Bearer``, JSON in both directions.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, Final

import msgspec
from anyio import fail_after
from msgspec import UNSET, UnsetType

from .._log import BoundedLog, about, escaped
from ..bus import Bus
from ..core.choices import shown
from ..core.errors import BrokerUnavailable, NotStarted, UsageError
from ..core.limits import MAX_DEPTH, too_deep
from ..server.drafts import HttpDraft, UnfitDraft, publish_all
from ..web.pages import AssetResponse
from ._bearers import Bearers, values_of

__all__ = ["Publishing"]

_MAX_BYTES: Final = 1 << 20
_MAX_PUBLICATIONS: Final = 1000
_BODY_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 1

logger: Final = logging.getLogger("wsbus.publish")


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One publication, or several."""

    publications: list[HttpDraft] | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    data: Any = UNSET
    event: str | UnsetType = UNSET
    exclude: tuple[str, ...] | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    to: str | UnsetType | None = UNSET


_decode: Final = msgspec.json.Decoder(_Body).decode
_ALONE: Final = HttpDraft.__struct_fields__


class _HttpRefusal(Exception):
    """A request that is answered with an error.

    Args:
        status: The status.
        message: What is wrong, for people.
        at: The place in the body, such as ``$.channel``.
        headers: More headers.
    """

    def __init__(self, status: int, message: str, at: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.at = at
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Publishing:
    """Answers requests that publish.

    Args:
        bus: The bus.
        token: The token that a request must have, or several that are valid at once.

    Raises:
        UsageError: An argument is wrong, or a token is too short.
    """

    def __init__(self, bus: Bus, token: str | Collection[str]) -> None:
        if not isinstance(bus, Bus):
            raise UsageError(f"the route publishes on a bus, not on {shown(bus)}")
        self._bus: Final = bus
        self._bearers: Final = Bearers(token)
        self._log: Final = BoundedLog(logger)

    async def answer(
        self,
        method: str,
        headers: Iterable[tuple[str, str]],
        chunks: AsyncIterator[bytes],
    ) -> AssetResponse:
        """Answer a request; it reads the body only if the headers are right.

        Args:
            method: The method.
            headers: The headers, with names in any case.
            chunks: The parts of the body; an OSError means that the client has left.
        """
        try:
            self._check(method, found := [(name.lower(), value) for name, value in headers])
            drafts, is_one = _read(await _collect(found, chunks))
            return await self._publish(drafts, is_one=is_one)
        except _HttpRefusal as exc:
            self._log.warning(
                "a request to publish was refused with %d: %s",
                exc.status,
                escaped(str(exc), 300),
                extra=about("publish_refused", status=exc.status),
            )
            body = {"message": str(exc)} | ({"at": exc.at} if exc.at else {})
            return _json(exc.status, {"error": body}, exc.headers)

    def _check(self, method: str, headers: Sequence[tuple[str, str]]) -> None:
        """Check the method, the token and the type of the body."""
        if method != "POST":
            raise _HttpRefusal(405, "publish with POST", Allow="POST")
        if not self._bearers.accept(headers):
            raise _HttpRefusal(
                401,
                "Authorization: Bearer … with a valid token is needed",
                WWW_Authenticate="Bearer",
            )
        kind, _, parameters = ",".join(values_of(headers, "content-type")).partition(";")
        charset = parameters.strip().lower().removeprefix("charset=").strip('"')
        if kind.strip().lower() != "application/json" or charset not in {"", "utf-8"}:
            raise _HttpRefusal(415, "the body must be application/json, in UTF-8")
        if any(
            value.strip().lower() != "identity" for value in values_of(headers, "content-encoding")
        ):
            raise _HttpRefusal(415, "the body must not be compressed", Accept_Encoding="identity")

    async def _publish(self, drafts: Sequence[HttpDraft], *, is_one: bool) -> AssetResponse:
        try:
            receipts = await publish_all(self._bus, drafts)
        except UnfitDraft as exc:
            where = "$" if is_one else f"$.publications[{exc.index}]"
            raise _HttpRefusal(400, str(exc), f"{where}.{exc.field}") from None
        except NotStarted:
            raise _unavailable("the bus is not running; nothing was published") from None
        except BrokerUnavailable as exc:
            raise _unavailable(str(exc)) from None
        return _json(200, {"receipts": receipts})


async def _collect(headers: Sequence[tuple[str, str]], chunks: AsyncIterator[bytes]) -> bytes:
    """Read the body, up to its bound."""
    too_large = _HttpRefusal(413, f"the body must have at most {_MAX_BYTES} bytes")
    for length in values_of(headers, "content-length"):
        if length.isdecimal() and (len(length) > 9 or int(length) > _MAX_BYTES):
            raise too_large
    body = bytearray()
    try:
        with fail_after(_BODY_SECONDS):
            async for chunk in chunks:
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise too_large
    except TimeoutError:
        raise _HttpRefusal(408, f"the body did not come within {_BODY_SECONDS:g} s") from None
    except OSError:
        raise _HttpRefusal(400, "the body is incomplete") from None
    return bytes(body)


def _read(body: bytes) -> tuple[Sequence[HttpDraft], bool]:
    """Return the publications of a body, and whether it has the form for one."""
    try:
        text = body.decode()
    except UnicodeError as exc:
        raise _HttpRefusal(400, f"the body is not UTF-8, from byte {exc.start} on") from None  # type: ignore[attr-defined]
    if too_deep(text, MAX_DEPTH):
        raise _HttpRefusal(400, f"the body is nested deeper than {MAX_DEPTH} levels")
    try:
        found = _decode(text)
    except (msgspec.MsgspecError, RecursionError) as exc:
        message, _, at = str(exc).partition(" - at `")
        raise _HttpRefusal(400, message, at.rstrip("`")) from None
    given = {name: getattr(found, name) for name in _ALONE if getattr(found, name) is not UNSET}
    if found.publications is UNSET:
        if "channel" not in given:
            raise _HttpRefusal(400, "channel is missing, or publications", "$")
        return [HttpDraft(**given)], True
    if given:
        raise _HttpRefusal(
            400, "give publications, or one publication, not both", f"$.{min(given)}"
        )
    publications = found.publications
    if not 1 <= len(publications) <= _MAX_PUBLICATIONS:
        text = f"a request has 1 to {_MAX_PUBLICATIONS} publications, not {len(publications)}"
        raise _HttpRefusal(400, text, "$.publications")
    return publications, False


def _unavailable(message: str) -> _HttpRefusal:
    return _HttpRefusal(503, message, Retry_After=str(_RETRY_SECONDS))


def _json(status: int, content: object, headers: dict[str, str] | None = None) -> AssetResponse:
    own = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return AssetResponse(status, own | (headers or {}), msgspec.json.encode(content))
