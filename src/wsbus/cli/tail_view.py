"""Printing events for ``wsbus tail``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

import click
import msgspec
from anyio import CancelScope, create_task_group, current_time

from ..client import (
    ChannelLoss,
    Client,
    CommandError,
    Event,
    Events,
    Gap,
    GapCause,
    Position,
    Retry,
    WsbusError,
)
from ..core.patterns import Pattern
from .connecting import enter, tell
from .escaping import compact, printable
from .exits import Exit, Failed, say
from .options import Target
from .stdio import Output

__all__ = ["TailOptions", "follow", "show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TailOptions:
    """The options of ``wsbus tail``."""

    target: Target
    patterns: Sequence[str]
    count: int | None
    timeout: float | None
    """Seconds, including those to connect."""
    since: Position | None = None
    reconnects: bool
    as_json: bool
    in_color: bool


class _Missing(msgspec.Struct, omit_defaults=True):
    """The gap before the event."""

    lost: int | None
    cause: GapCause
    channels: Mapping[str, ChannelLoss] | None = None


class _Line(msgspec.Struct, omit_defaults=True):
    """An event as a line of JSON."""

    channel: str
    event: str
    timestamp: float
    data: msgspec.Raw
    position: Position | None = None
    gap: _Missing | None = None


async def follow(wanted: TailOptions, stream: BinaryIO) -> None:
    """Print events until the count, the time or the connection ends.

    Raises:
        WsbusError: The server refuses it; the error says why.
        Failed: The time was up before the wanted number of events had come.
        BrokenPipeError: The reader of the output has closed the pipe.
    """
    deadline = current_time() + (math.inf if wanted.timeout is None else wanted.timeout)
    async with AsyncExitStack() as stack:
        with CancelScope(deadline=deadline) as preparing:
            inbox, asked = await _subscribe(stack, wanted)
        if preparing.cancelled_caught:
            raise Failed(f"there was no subscription within {wanted.timeout:g} s")
        say(f"subscribed to {', '.join(wanted.patterns)}")
        await _Printing(wanted, Output(stream)).run(inbox, asked, deadline)


async def _subscribe(
    stack: AsyncExitStack, wanted: TailOptions
) -> tuple[Events[msgspec.Raw], list[Events[msgspec.Raw]]]:
    """Return one iterator over all events, in order and each once, and one for each pattern.

    The latter only subscribe, and end when the server takes their pattern away.
    """
    retry = Retry(attempts=None if wanted.reconnects else 0)
    client: Client = await enter(stack, wanted.target, retry=retry, on_change=tell)
    inbox = await stack.enter_async_context(client.subscribe("*", msgspec.Raw, ask=False))
    asked = [
        await stack.enter_async_context(
            client.subscribe(pattern, msgspec.Raw, buffer=1, since=wanted.since)
        )
        for pattern in wanted.patterns
    ]
    return inbox, asked


class _Printing:
    """Prints events until one of the ends."""

    def __init__(self, wanted: TailOptions, output: Output) -> None:
        self._wanted = wanted
        self._output = output
        self._failure: Exception | None = None
        self._is_enough = False

    async def run(
        self, inbox: Events[msgspec.Raw], asked: list[Events[msgspec.Raw]], deadline: float
    ) -> None:
        """Print until one of the ends; raise the error if that is a failure."""
        with CancelScope(deadline=deadline):
            async with create_task_group() as tasks:
                for events in asked:
                    tasks.start_soon(self._watch, events, tasks.cancel_scope)
                tasks.start_soon(self._heed, tasks.cancel_scope)
                await self._print(inbox, [events.parsed for events in asked])
                tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        count = self._wanted.count
        if count is not None and not self._is_enough:
            raise Failed(
                f"fewer than {count} events within {self._wanted.timeout:g} s", Exit.TOO_FEW
            )

    async def _print(self, inbox: Events[msgspec.Raw], patterns: list[Pattern]) -> None:
        printed = 0
        gap: Gap | None = None
        try:
            async for event in inbox:
                if event.gap is not None:
                    _tell_gap(event.gap)
                    gap = event.gap if gap is None else gap.joined(event.gap)
                # A server may send events that the client did not subscribe to.
                if not any(pattern.matches(event.channel) for pattern in patterns):
                    continue
                line = show(
                    event, gap, as_json=self._wanted.as_json, in_color=self._wanted.in_color
                )
                await self._output.write(line)
                gap = None
                printed += 1
                if printed == self._wanted.count:
                    break
        except (WsbusError, OSError) as exc:
            self._failure = self._failure or exc
        self._is_enough = printed == self._wanted.count

    async def _watch(self, events: Events[msgspec.Raw], scope: CancelScope) -> None:
        with suppress(
            WsbusError
        ):  # The client has ended: the events that have come are still printed.
            try:
                async for _ in events:
                    pass
            except CommandError as exc:
                self._failure = exc
                scope.cancel()

    async def _heed(self, scope: CancelScope) -> None:
        await self._output.wait_abandoned()
        self._failure = BrokenPipeError()
        scope.cancel()


def _tell_gap(gap: Gap) -> None:
    """Report missing events right before the next one; those of a reconnect are reported there."""
    lost = "events are" if gap.lost is None else f"{gap.lost} events are"
    if gap.cause is GapCause.SERVER:
        say(f"{lost} missing here: the server's queue for this client was full")
    elif gap.cause is GapCause.BROKER:
        say(f"{lost} missing here: the link between servers was lost")
    elif gap.cause is GapCause.BUFFER:
        say(f"{lost} missing here: the output is read too slowly")


def show(event: Event[msgspec.Raw], gap: Gap | None, *, as_json: bool, in_color: bool) -> bytes:
    """Return the line for an event, and for a gap before it."""
    if as_json:
        missing = None if gap is None else _Missing(gap.lost, gap.cause, gap.channels)
        line = _Line(
            event.channel, event.event, event.timestamp, event.data, event.position, missing
        )
        return f"{compact(msgspec.json.encode(line))}\n".encode()
    parts = [
        _clock(event.timestamp),
        printable(event.channel),
        printable(event.event),
        compact(bytes(event.data)),
    ]
    if in_color:
        parts[0] = click.style(parts[0], dim=True)
        parts[1] = click.style(parts[1], bold=True)
        parts[2] = click.style(parts[2], fg="cyan")
    return f"{' '.join(parts)}\n".encode()


def _clock(timestamp: float) -> str:
    try:
        at = datetime.fromtimestamp(timestamp)  # noqa: DTZ006  # by the clock on the wall
    except (OverflowError, ValueError, OSError):
        return "--:--:--.---"
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
