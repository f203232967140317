"""The bus of the consoles, and the task that samples, while operators are connected."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import count
from time import perf_counter, process_time
from typing import Annotated, Any, Final

import msgspec
from anyio import CancelScope, Event, sleep
from msgspec import Meta

from .._log import about, escaped
from .._spawn import spawn
from ..bus import Bus, host_of
from ..connection import Connection, ConnectionInfo
from ..core.errors import CloseCode, CommandError, ErrorCode, InvalidChannel, NotStarted
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.permissions import Grants
from ..server.connection import ConnectionDriver
from ..server.host import BusHost
from .losses import Losses
from .past import Past, PastQuery, look
from .process import process_info
from .samples import CHANNEL, CUT, ENDED_ROWS, EndedRow, Query, Sample, TailBatch, TailEvent, Watch
from .sampling import (
    Effort,
    Found,
    answer,
    cut,
    ended_row,
    followed,
    node_rows,
    sendable,
    sorted_by,
)
from .tap import ChannelTap, Recorded, Tail

__all__ = ["Observation"]

logger: Final = logging.getLogger("wsbus.console")

TICK_SECONDS: Final = 0.25
"""Seconds between two batches of a tail, and two measurements of the loop's lateness."""
SAMPLE_SECONDS: Final = 1.0
MAX_SHARE: Final = 0.03
"""Largest share of one processor for samples; if they cost more, they become rarer."""
MAX_OPERATORS: Final = 64
"""Largest number of operators; a further one is closed with 1012."""
_CLOSE_SECONDS: Final = 2.0


class _Watching(msgspec.Struct):
    """The query and the tail of one console."""

    query: Query
    tail: Tail | None


class Observation:
    """One period in which operators are connected; begun by the first, closed by the last.

    Args:
        watched: The host of the bus to show.
        allow_changes: Whether consoles may disconnect clients.
    """

    def __init__(self, watched: BusHost, *, allow_changes: bool) -> None:
        self.bus: Final = Bus()
        """The consoles' own bus; it joins no broker."""
        host_of(self.bus).is_private = True
        self.guests: int = 0
        """Connections that have begun or are about to."""
        self._watched: Final = watched
        self._services: Final = watched.services
        self._allow_changes: Final = allow_changes
        self._operators: Final[set[Connection]] = set()
        self._watching: Final[dict[Connection, _Watching]] = {}
        self._tap: Final = ChannelTap()
        self._departed: Final[deque[EndedRow]] = deque(maxlen=ENDED_ROWS)
        self._losses: Final = Losses()
        self._opened: Event | None = None
        self._ended: Event | None = None
        self.is_over: bool = False
        """Whether its bus is closed, or about to be; new connections need another one."""
        self._scope: Final = CancelScope()
        self._lag = self._cost = 0.0
        self._interval = SAMPLE_SECONDS
        self._due_at = self._affordable_at = 0.0
        self._is_asked = False
        # Of the samples that wait the newest counts; each batch of a tail has a key of its own.
        self.bus.family(CHANNEL, overflow=Overflow.CONFLATE)
        self._batches: Final = count()
        self.bus.command("console.watch")(self._watch)
        self.bus.command("console.show")(self._show)
        self.bus.command("console.channel")(self._look)
        self.bus.command("console.disconnect")(self._disconnect)
        self.bus.on_connect(self._enter)
        self.bus.on_disconnect(self._leave)

    async def begin(self) -> None:
        """Return once its bus runs, and sampling has begun; the first call starts both."""
        if self._opened is not None:
            await self._opened.wait()
            return
        self._opened = Event()
        with CancelScope(shield=True):
            await self.bus.__aenter__()
        if not self.is_over and self._watched.is_running:
            self._ended = Event()
            self._services.registry.observers.append(self._note_end)
            spawn(partial(self._run, self._ended))
        self._opened.set()

    async def close(self) -> None:
        """End the sampling and the bus; idempotent."""
        self.is_over = True
        self._scope.cancel()
        if self._opened is not None:
            if self._ended is not None:
                await self._ended.wait()
            await self.bus.aclose(deadline=_CLOSE_SECONDS)

    # --- commands of consoles --------------------------------------------------------------------

    def _watch(self, watch: Watch, who: Connection) -> dict[str, Any]:
        """Note the view that a console wants from now on."""
        assert who.identity is not None  # Otherwise it could not call commands.
        query = Query(watch.view, sorted_by(watch.view, watch.sort), watch.find.strip().lower())
        before = self._watching.get(who)
        tail = before.tail if before is not None else None
        if watch.tail is None:
            tail = None
        elif tail is None or (tail.pattern.text, tail.text) != (watch.tail, watch.text):
            tail = _tail(watch, who.identity.grants)
        self._watching[who] = _Watching(query, tail)
        self._attend()
        self._is_asked = True
        return {"allow_changes": self._allow_changes, "sort": query.sort}

    def _enter(self, who: Connection) -> None:
        """Admit an operator, whose token was accepted, within the bound."""
        if len(self._operators) < MAX_OPERATORS:
            self._operators.add(who)
        else:
            logger.warning(
                "the console has %d operators, and takes no more",
                MAX_OPERATORS,
                extra=about("console_full"),
            )
            who.disconnect(CloseCode.SERVICE_RESTART, "too many operators are connected")

    def _leave(self, who: Connection) -> None:
        self._operators.discard(who)
        self._watching.pop(who, None)
        self._attend()

    def _attend(self) -> None:
        """Listen to publications only if a console shows them."""
        tails = [w.tail for w in self._watching.values() if w.tail is not None]
        lists = any(w.query.view == "published" for w in self._watching.values())
        if not (tails or lists):
            self._tap.close()
        elif not self._tap.is_open:
            self._tap.open(self._services.hub, perf_counter())
        self._tap.tail(tails)

    def _show(
        self, connection_id: Annotated[str, Meta(max_length=1000)], connected_at: float
    ) -> ConnectionInfo:
        """Return all information about one connection."""
        return sendable(self._find(connection_id, connected_at).info())

    async def _look(self, wanted: PastQuery, who: Connection) -> Past:
        """Return what one channel keeps, and which connections are on it."""
        assert who.identity is not None
        return await look(wanted, who.identity.grants, self._services)

    def _disconnect(
        self,
        connection_id: Annotated[str, Meta(max_length=1000)],
        connected_at: float,
        who: Connection,
        *,
        come_again: bool = False,
    ) -> None:
        """End one connection."""
        if not self._allow_changes:
            raise CommandError("READ_ONLY", "this console may look, and change nothing")
        found = self._find(connection_id, connected_at)
        assert who.identity is not None
        operator, name = escaped(who.identity.subject), escaped(found.id)
        logger.warning(
            "%s disconnects the connection %s from the console",
            operator,
            name,
            extra=about("console_disconnects", connection=name, subject=operator),
        )
        code = CloseCode.SERVICE_RESTART if come_again else CloseCode.DISCONNECTED
        found.disconnect(code, "disconnected by an operator")

    def _find(self, connection_id: str, connected_at: float) -> Connection:
        for driver in self._services.registry.connected():
            if (
                driver.connected_at == connected_at
                and cut(driver.id) == connection_id[:CUT]
                and driver.close_code is None  # Otherwise it is ending already.
            ):
                return driver.connection
        raise CommandError("GONE", "this connection has ended")

    # --- samples and tails -----------------------------------------------------------------------

    async def _run(self, ended: Event) -> None:
        """Sample while consoles watch; end all consoles when the bus has ended."""
        try:
            with self._scope:
                with suppress(NotStarted):  # One of the two buses stopped while samples were made.
                    while self._is_served:
                        await self._tick()
                self.is_over = True
                await self.bus.aclose(deadline=_CLOSE_SECONDS)
        except Exception:
            logger.exception("the console's sampling failed", extra=about("console_failed"))
            self.is_over = True
            await self.bus.aclose(deadline=_CLOSE_SECONDS, code=CloseCode.INTERNAL_ERROR)
        finally:
            self.is_over = True
            self._tap.close()
            self._services.registry.observers.remove(self._note_end)
            ended.set()

    def _note_end(self, driver: ConnectionDriver) -> None:
        self._departed.appendleft(ended_row(driver, self._services.clock().wall))

    async def _tick(self) -> None:
        due = perf_counter() + TICK_SECONDS
        await sleep(TICK_SECONDS)
        now = perf_counter()
        self._lag = max(self._lag, now - due)
        await self._send_tails()
        # A console that has just changed its query need not wait a second, if that is affordable.
        if self._watching and now >= (self._affordable_at if self._is_asked else self._due_at):
            self._is_asked = False
            await self._send_samples(now)

    @property
    def _is_served(self) -> bool:
        return self._watched.is_running and self._watched.services is self._services

    async def _send_samples(self, now: float) -> None:
        """Send a sample to each console, and compute when the next is due."""
        effort = Effort()
        found: dict[Query, Found] = {}
        with effort:
            self._tap.rate(now)
            totals = self._watched.statistics()
            process, relay = process_info(), self._services.relay
        await self._losses.look(self._services, totals, self._services.clock().wall, effort)
        for who, watching in list(self._watching.items()):
            query = watching.query
            if query not in found:
                found[query] = await answer(query, self._services, self._tap, effort)
            rows = found[query]
            instant = self._services.clock()
            with effort:
                sample = Sample(
                    at=instant.wall,
                    clock=instant.monotonic,
                    node=self._services.post.node,
                    totals=totals,
                    process=process,
                    consoles=len(self._watching),
                    cpu=process_time(),
                    lag=self._lag,
                    cost=self._cost,
                    interval=self._interval,
                    view=query.view,
                    sort=query.sort,
                    find=query.find,
                    total=rows.total,
                    found=rows.found,
                    rows=rows.rows,
                    ended=list(self._departed) if query.view == "overview" else [],
                    losses=self._losses.rows() if query.view == "overview" else [],
                    nodes=node_rows(relay) if query.view == "overview" else [],
                    feeds=followed(relay) if query.view == "overview" else [],
                    listening=self._tap.listened(now),
                    others=self._tap.others,
                )
                await self._tell(who, "sample", sample)  # It never waits.
        self._lag, self._cost = 0.0, effort.seconds
        self._affordable_at = now + effort.seconds / MAX_SHARE
        self._interval = max(SAMPLE_SECONDS, effort.seconds / MAX_SHARE)
        self._due_at = now + self._interval - TICK_SECONDS / 2

    async def _send_tails(self) -> None:
        for who, watching in list(self._watching.items()):
            tail = watching.tail
            if tail is not None and tail.kept:
                events = [_tail_event(event) for event in tail.take()]
                batch = TailBatch(tail.pattern.text, tail.matched, events)
                await self._tell(who, "tail", batch, key=str(next(self._batches)))

    async def _tell(
        self, who: Connection, event: str, data: object, key: str | None = None
    ) -> None:
        await self.bus.send(CHANNEL, data, to=who, event=event, key=key)


def _tail(watch: Watch, grants: Grants) -> Tail:
    try:
        pattern = parse_pattern(watch.tail or "")
    except InvalidChannel as exc:
        raise CommandError(ErrorCode.INVALID_CHANNEL, exc.reason) from None
    if not grants.may_subscribe(pattern):
        raise CommandError(ErrorCode.FORBIDDEN, "this pattern is denied")
    return Tail(pattern, watch.text, grants)


def _tail_event(kept: Recorded) -> TailEvent:
    text = kept.data.decode(errors="ignore")
    return TailEvent(kept.channel, cut(kept.event), kept.at, text, kept.size)
