"""``wsbus doctor --status``: what a process says of itself, over its routes of status."""

from __future__ import annotations

import time
from http.client import HTTPException
from typing import Any, Final, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import msgspec

from .exits import Failed
from .findings import CLOCK_SECONDS, PATIENCE, SLOW_SECONDS, Findings

__all__ = ["look_at_status"]

T = TypeVar("T")
_MAX_BYTES: Final = 1 << 20


class ToldReadiness(msgspec.Struct):
    """Whether a process should get traffic, as it says."""

    ready: bool
    reason: str = ""


class ToldLink(msgspec.Struct):
    """A link to a broker, as its process says; what an older version does not say is 0."""

    address: str
    is_up: bool
    seconds: float
    failure: str | None = None
    nodes: int = 0
    feeds: int = 0
    losses: int = 0
    gaps: int = 0
    round_trip: float | None = None
    lag: float = 0.0
    unconfirmed: int = 0
    unreadable: int = 0


class ToldCounters(msgspec.Struct):
    """The counters of a process, as it says."""

    connections: int
    blocked: int = 0
    queued: int = 0
    dropped: int = 0
    conflated: int = 0
    refused: int = 0
    failures: int = 0
    broker: ToldLink | None = None


def look_at_status(findings: Findings, url: str) -> None:
    """Ask a process whether it is ready, and for its counters.

    Raises:
        Failed: The URL is none of HTTP, or has more than the prefix of the routes.
    """
    _check(url)
    what = url.rstrip("/")
    try:
        _tell_readiness(findings, what, _told(f"{what}/ready", ToldReadiness))
        _tell_counters(findings, what, _told(f"{what}/statistics", ToldCounters))
    except HTTPError as exc:
        cure = "mount the routes of status, and ask from where they are open"
        findings.tell("fail", what, f"{exc.url} answers {exc.code}", cure)
    except (OSError, HTTPException, ValueError, RecursionError) as exc:
        findings.tell("fail", what, f"cannot ask it: {exc}", "is this the prefix of the routes?")


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        bare = url.partition("?")[0].rpartition("@")[2]  # Without what may be secret.
        raise Failed(f"--status: {bare!r} is no address of HTTP: http://127.0.0.1:8000/-")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Failed("--status takes the prefix of the routes alone: http://127.0.0.1:8000/-")


def _told(url: str, kind: type[T]) -> T:
    try:
        with urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310  # of HTTP, as was checked
            body = _read(answer)
    except HTTPError as exc:
        with exc:
            if exc.code != 503:
                raise
            body = _read(exc)
    return msgspec.json.decode(body, type=kind)


def _read(answer: Any) -> bytes:
    """Read an answer; one that is too large or does not end is no state of a process."""
    end = time.monotonic() + PATIENCE
    body = b""
    while part := answer.read1(_MAX_BYTES):
        body += part
        if len(body) > _MAX_BYTES:
            raise ValueError("its answer is too large")
        if time.monotonic() > end:
            raise TimeoutError(f"its answer does not end within {PATIENCE:g} s")
    return body


def _tell_readiness(findings: Findings, what: str, found: ToldReadiness) -> None:
    if found.ready:
        findings.tell("ok", what, "it is ready")
    else:
        findings.tell("fail", what, f"it is not ready: {found.reason}")


def _tell_counters(findings: Findings, what: str, found: ToldCounters) -> None:
    text = f"{found.connections} connections, {found.blocked} blocked, {found.queued} queued events"
    findings.tell("ok", what, text)
    lost = found.dropped - found.conflated + found.refused
    if lost or found.failures:
        text = f"slow readers have lost {lost} events, and {found.failures} connections have failed"
        cure = "its console shows which; docs/how-to/slow-consumers.md"
        findings.tell("warn", what, text, cure)
    if found.broker is None:
        findings.tell("ok", what, "it has no broker: its clients get what this process publishes")
    elif found.broker.is_up:
        _tell_link(findings, what, found.broker)
    else:
        _tell_no_link(findings, what, found.broker)


def _tell_no_link(findings: Findings, what: str, link: ToldLink) -> None:
    text = f"it has no link to {link.address} since {link.seconds:.0f} s: {link.failure}"
    findings.tell("fail", what, text, f"try wsbus doctor --broker {link.address} on that machine")


def _tell_link(findings: Findings, what: str, link: ToldLink) -> None:
    text = f"its link to {link.address} is there since {link.seconds:.0f} s"
    findings.tell("ok", what, f"{text}; it knows {link.nodes} nodes and follows {link.feeds} feeds")
    if link.losses or link.gaps:
        text = f"the link was lost {link.losses} times, and subscribers got {link.gaps} gaps"
        findings.tell("warn", what, text, "its log has the reasons")
    if link.round_trip is not None:
        is_quick = link.round_trip <= SLOW_SECONDS
        text = f"round trip to the broker {link.round_trip * 1000:.2f} ms"
        cure = "" if is_quick else "put the broker nearer, or find what keeps the process busy"
        findings.tell("ok" if is_quick else "warn", what, text, cure)
    is_timely = abs(link.lag) <= CLOCK_SECONDS
    text = f"lag {link.lag:+.3f} s: the age of what came last from another node"
    cure = "" if is_timely else "compare the clocks of the nodes, and the load of this process"
    findings.tell("ok" if is_timely else "warn", what, text, cure)
    if link.unreadable or link.unconfirmed:
        text = f"{link.unreadable} messages were unreadable, {link.unconfirmed} not confirmed"
        cure = "other versions, or other programs, may use the same prefix"
        findings.tell("warn", what, text, cure)
