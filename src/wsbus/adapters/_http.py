"""A bus over HTTP, for every framework: what a request asks for, and answers that are no stream.

Readers are connections: they have a place, a session and a member in the hub like any other. A
``POST`` is none: it stands for itself, and may reach another process than its client's stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from anyio import fail_after

from ..core.errors import CloseCode, ErrorCode
from ..core.events import Position
from ..core.origins import is_welcome
from ..core.permissions import Identity
from ..core.thinning import MAX_RATE, MIN_RATE
from ..endpoint import Admission, Endpoint, Refusal
from ..protocols.event_stream import EVENT_STREAM, InvalidToken, position_of
from ..server.host import BusHost
from ..transport import Handshake
from ..web.pages import AssetResponse

__all__ = [
    "METHODS",
    "Reading",
    "answer_request",
    "begin_reading",
    "cors",
    "error_answer",
    "is_spoken",
    "refused_before",
    "status_of_close",
    "status_of_code",
]

METHODS: Final = {"events": "GET", "poll": "GET", "requests": "POST"}
"""The last part of each path, and its method."""

MAX_WAIT: Final = 60.0
"""Seconds for which a poll waits at most: proxies give up soon after."""
MAX_MESSAGES: Final = 300
"""Messages in the answer to a poll: as many as are replayed for one pattern."""
_WAIT: Final = 25.0
_BODY_SECONDS: Final = 10.0
_PREFLIGHT_SECONDS: Final = "600"

_STATUS: Final[Mapping[str, int]] = {
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.UNKNOWN_ACTION: 404,
    ErrorCode.NO_HISTORY: 404,
    ErrorCode.NO_PRESENCE: 404,
    ErrorCode.POSITION_LOST: 409,
    ErrorCode.NOT_REPEATABLE: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.TIMEOUT: 504,
}
_CODES: Final[Mapping[int, str]] = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    409: "CONFLICT",
    429: ErrorCode.RATE_LIMITED,
    500: ErrorCode.INTERNAL_ERROR,
    503: ErrorCode.UNAVAILABLE,
}
_CLOSINGS: Final[Mapping[int, int]] = {
    CloseCode.GOING_AWAY: 503,
    CloseCode.SERVICE_RESTART: 503,
    CloseCode.TOKEN_EXPIRED: 401,
    CloseCode.TOKEN_REFUSED: 401,
    CloseCode.REPLACED: 409,
    CloseCode.RATE_ABUSE: 429,
    CloseCode.INTERNAL_ERROR: 500,
}


def status_of_code(code: str) -> int:
    """Return the status that goes with the code of an error."""
    return _STATUS.get(code, 400)


def status_of_close(code: int) -> int:
    """Return the status for a connection that is closed before its answer has begun."""
    return _CLOSINGS.get(code, 503)


def error_answer(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> AssetResponse:
    """Return the answer to a request that is refused."""
    body = {"type": "error", "code": code, "message": message}
    own = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return _json(status, msgspec.json.encode(body), {**own, **(headers or {})})


def _json(status: int, body: bytes, headers: Mapping[str, str]) -> AssetResponse:
    own = {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return AssetResponse(status, {**own, **headers}, body)


def _refused(refusal: Refusal, headers: Mapping[str, str]) -> AssetResponse:
    code = _CODES.get(refusal.status, ErrorCode.INVALID_MESSAGE)
    return error_answer(refusal.status, code, refusal.reason, headers)


def is_spoken(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint serves HTTP: it speaks ``wsbus.v1``, and belongs to a bus."""
    names = [protocol.name for protocol in endpoint.protocols]
    return "wsbus.v1" in names and isinstance(endpoint.host, BusHost)


def cors(endpoint: Endpoint, handshake: Handshake) -> dict[str, str]:
    """Return the headers that let a page of an origin that may connect read the answer."""
    origin = handshake.headers.get("origin")
    if origin is None:
        return {"Vary": "Origin"}
    if not is_welcome(endpoint.origins, origin, handshake.headers.get("host", "")):
        return {"Vary": "Origin"}
    if endpoint.origins == "*":  # Without credentials, which any page could otherwise use.
        return {"Access-Control-Allow-Origin": "*"}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Vary": "Origin",
    }


def refused_before(
    endpoint: Endpoint, what: str, method: str, handshake: Handshake
) -> AssetResponse | None:
    """Return the answer to a preflight, or to a request of a wrong method or a foreign page."""
    headers, allowed = cors(endpoint, handshake), METHODS[what]
    if method == "OPTIONS":
        if handshake.headers.get("origin") is None or "Access-Control-Allow-Origin" not in headers:
            return error_answer(403, ErrorCode.FORBIDDEN, "this origin may not connect", headers)
        headers |= {
            "Access-Control-Allow-Methods": allowed,
            "Access-Control-Allow-Headers": "authorization, content-type, last-event-id",
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            "Cache-Control": "no-store",
        }
        return AssetResponse(204, headers, b"")
    if method != allowed:
        why = f"this path takes {allowed}"
        headers["Allow"] = f"{allowed}, OPTIONS"
        return error_answer(405, ErrorCode.INVALID_MESSAGE, why, headers)
    # Browsers leave Origin out of some requests (for an image, say), and send cookies with them.
    site = handshake.headers.get("sec-fetch-site", "")
    is_foreign = handshake.headers.get("origin") is None and site in {"cross-site", "same-site"}
    if is_foreign and endpoint.origins != "*":
        why = "a page of another origin sent this without its name"
        return error_answer(403, ErrorCode.FORBIDDEN, why, headers)
    return None


@dataclass(frozen=True, slots=True)
class Reading:
    """A reader that is admitted."""

    admission: Admission
    names: tuple[str, ...]
    since: Position | None
    is_strict: bool
    headers: Mapping[str, str]
    """Those of the answer, whatever it is."""
    is_first: bool = True
    """Whether the reader has no token yet."""
    max_rate: float | None = None
    """Events of one key a second; None: all."""
    wait: float = _WAIT
    limit: int = MAX_MESSAGES


async def begin_reading(
    endpoint: Endpoint, what: str, handshake: Handshake, identity: Identity | None = None
) -> Reading | AssetResponse:
    """Admit a reader, or answer why not; run it, or release its place."""
    headers = cors(endpoint, handshake)
    admission = await endpoint.admit(handshake, identity)
    if isinstance(admission, Refusal):
        return _refused(admission, headers)
    answer: AssetResponse | None = None
    try:
        if admission.identity is None:
            answer = error_answer(401, ErrorCode.UNAUTHENTICATED, "a token is needed", headers)
            return answer
        try:
            terms = replace(admission, protocol=EVENT_STREAM, subprotocol=None)
            return _parsed(endpoint, what, terms, headers)
        except (ValueError, InvalidToken) as exc:
            answer = error_answer(400, ErrorCode.INVALID_MESSAGE, str(exc), headers)
            return answer
    finally:
        if answer is not None and admission.place is not None:
            admission.place.release()


def _parsed(
    endpoint: Endpoint, what: str, admission: Admission, headers: Mapping[str, str]
) -> Reading:
    handshake = admission.handshake
    pairs = parse_qsl(handshake.query_string, keep_blank_values=True)
    given = dict(reversed(pairs))  # Of several, the first.
    names = _names(pairs, endpoint.limits.max_names)
    token = (handshake.headers.get("last-event-id") if what == "events" else None) or given.get(
        "since"
    )
    since = position_of(token) if token else None
    strict = given.get("strict", "0")
    if strict not in {"0", "1", "true", "false"}:
        raise ValueError("strict is 0 or 1")
    return Reading(
        admission,
        names,
        since,
        strict in {"1", "true"},
        headers,
        is_first=not token,
        max_rate=_rate(given),
        wait=_number(given, "wait", _WAIT, 0.0, MAX_WAIT),
        limit=int(_number(given, "limit", MAX_MESSAGES, 1, MAX_MESSAGES)),
    )


def _names(pairs: Sequence[tuple[str, str]], most: int) -> tuple[str, ...]:
    """Return the names of ``channels=a,b``, and of ``channel=``, which may hold commas."""
    names: dict[str, None] = {}
    for key, value in pairs:
        if key == "channels":
            names |= dict.fromkeys(filter(None, value.split(",")))
        elif key == "channel" and value:
            names[value] = None
    if not names:
        raise ValueError("name the channels: ?channels=news,chat.*")
    if len(names) > most:
        raise ValueError(f"more than {most} names in one request")
    return tuple(names)


def _rate(given: Mapping[str, str]) -> float | None:
    if "max_rate" not in given:
        return None
    return _number(given, "max_rate", MAX_RATE, MIN_RATE, MAX_RATE)


def _number(
    given: Mapping[str, str], name: str, default: float, least: float, most: float
) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number < float("inf"):
        raise ValueError(f"{name} is a number from {least:g} to {most:g}")
    return min(number, most)


async def answer_request(
    endpoint: Endpoint,
    handshake: Handshake,
    chunks: AsyncIterator[bytes],
    identity: Identity | None = None,
) -> AssetResponse:
    """Answer a ``POST`` with one request of ``wsbus.v1``.

    Args:
        endpoint: The endpoint.
        handshake: The request, without its body.
        chunks: The parts of the body; an OSError means that it ends too early.
        identity: From the framework, if it identified the client; None: ask the authenticator.
    """
    headers = cors(endpoint, handshake)
    found = await endpoint.identify(handshake, identity)
    if isinstance(found, Refusal):
        return _refused(found, headers)
    try:
        text = await _body(endpoint, handshake, chunks)
    except _BadBody as exc:
        return error_answer(exc.status, exc.code, str(exc), headers)
    assert isinstance(endpoint.host, BusHost)
    code, body = await endpoint.host.request(endpoint, handshake, found, text)
    if code is not None:
        status = status_of_code(code)
        retry = {"Retry-After": "1"} if status in {429, 503} else {}
        return _json(status, body, {**headers, **retry})
    return _json(200, body, headers)


class _BadBody(Exception):
    def __init__(self, status: int, message: str, code: str = ErrorCode.INVALID_MESSAGE) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


async def _body(endpoint: Endpoint, handshake: Handshake, chunks: AsyncIterator[bytes]) -> str:
    kind, _, parameters = handshake.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in {"", "utf-8"}:
        raise _BadBody(415, "the body must be application/json, in UTF-8")
    if handshake.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _BadBody(415, "the body must not be compressed")
    most = endpoint.limits.max_message_bytes
    too_large = _BadBody(413, f"the body has over {most} bytes")
    length = handshake.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 12 or int(length) > most):
        raise too_large
    body = bytearray()
    try:
        with fail_after(_BODY_SECONDS):
            async for chunk in chunks:
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        why = f"the body did not come within {_BODY_SECONDS:g} s"
        raise _BadBody(408, why, ErrorCode.TIMEOUT) from None
    except OSError:
        raise _BadBody(400, "the body is incomplete") from None
    try:
        return body.decode()
    except UnicodeError:
        raise _BadBody(400, "the body is not UTF-8") from None
