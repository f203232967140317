"""The hot loop: publish when it is due, read and count messages, and note each receipt."""

from __future__ import annotations

import math
import select
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

from .errors import BenchError
from .schedules import Schedule
from .sockets import RawClient, Tally

__all__ = ["ALIVE_SECONDS", "Pump", "Run"]

_READ: Final = 256 * 1024
_EVENTS_AT_ONCE: Final = 64
"""Reads before the next look at the clock: a thousand of them would delay publications."""
ALIVE_SECONDS: Final = 15.0
"""Seconds between signs of life: wsbus closes a connection after a minute of silence by default."""
_LONGEST_WAIT: Final = 1.0
_MOST_IN_STEPS: Final = 16_384
_ONES: Final = b"0123456789" * (_MOST_IN_STEPS // 10 + 11)
_PAIRS: Final = b"".join(b"%02d" % (number % 100) for number in range(len(_ONES)))
_FEW: Final = 4
_TENS: Final = bytes(48 + number // 10 % 10 for number in range(len(_ONES)))
_PROGRESS_SECONDS: Final = 0.1


class Run:
    """One run: which publications are due, which have reached everybody, and what went wrong.

    Args:
        schedule: When the next publication is due.
        publications: Number of publications.
        tallies: The count of each subscriber; reset here.
        patience: Seconds without any message after which missing messages count as lost.
        progress: Called now and then with the number of publications completed since.
    """

    def __init__(
        self,
        schedule: Schedule,
        publications: int,
        tallies: Sequence[Tally],
        patience: float,
        progress: Callable[[int], None] | None,
    ) -> None:
        for tally in tallies:
            tally.received = 0
        self.deliveries: int = 0
        self.reordered: int = 0
        self.closed: int = 0
        self.is_stalled: bool = False
        self.ended: float | None = None
        """When all subscribers had everything; None: some did not get everything."""
        self.latencies: Final[list[float]] = []
        self._schedule: Final = schedule
        self._publications: Final = publications
        self._tallies: Final = tallies
        self._patience: Final = patience
        self._progress: Final = progress
        # levels[k]: number of subscribers that have k messages. All have `done` if none has fewer.
        # This takes one step per read; a look at each publication would take one per message.
        self._levels: Final = [0] * (publications + 1)
        self._levels[0] = sum(tally.is_open for tally in tallies)
        self._moments: Final[list[float]] = []
        self._done = self._shown = 0
        self._heard_at = self._shown_at = 0.0
        self._began: Final = perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether all subscribers have everything, or nothing comes any more."""
        return self.is_stalled or self._done >= self._publications

    def due(self) -> int:
        """Return how many publications are due now; they count as published."""
        elapsed = perf_counter() - self._began
        first = len(self._moments)
        last = min(self._publications, self._schedule.due(self._done, elapsed))
        moment = self._schedule.moment
        self._moments.extend([moment(number, elapsed) for number in range(first, last)])
        return max(0, last - first)

    def wait(self) -> float:
        """Return how long to wait for messages before the next publication is due."""
        sent = len(self._moments)
        if sent >= self._publications:
            return _LONGEST_WAIT
        return min(_LONGEST_WAIT, self._schedule.wait(sent, perf_counter() - self._began))

    def count(self, tally: Tally, found: int) -> None:
        """Note that messages came."""
        levels, most = (
            self._levels,
            self._publications,
        )  # The number shows messages that came twice.
        levels[min(tally.received, most)] -= 1
        tally.received += found
        levels[min(tally.received, most)] += 1
        self.deliveries += found

    def lose(self, tally: Tally) -> None:
        """Note that a subscriber's connection is gone; the run does not wait for it."""
        self._levels[min(tally.received, self._publications)] -= 1
        tally.is_open = False

    def settle(self, *, heard: bool) -> None:
        """Note the publications that reached all subscribers; called after each round of reads."""
        elapsed = perf_counter() - self._began
        if heard:
            self._heard_at = elapsed
        elif elapsed - self._heard_at > self._patience:
            self.is_stalled = len(self._moments) > self._done
        while self._done < len(self._moments) and not self._levels[self._done]:
            self.latencies.append(elapsed - self._moments[self._done])
            self._done += 1
        is_over = self.is_over
        if is_over and not self.is_stalled:
            self.ended = self._began + elapsed
        if self._progress and (is_over or elapsed - self._shown_at > _PROGRESS_SECONDS):
            self._progress(self._done - self._shown)
            self._shown, self._shown_at = self._done, elapsed

    @property
    def lost(self) -> int:
        """Return how many messages never came."""
        return sum(max(0, self._publications - tally.received) for tally in self._tallies)

    def latency(self, share: float) -> float:
        """Return the seconds within which this share of publications reached all subscribers."""
        if not self.latencies:
            return math.nan
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered), math.ceil(share * len(ordered))) - 1]


class Pump:
    """Publishes through one connection and reads from all the others.

    Args:
        publisher: The publisher's connection.
        clients: Connections of the subscribers, all of them subscribed.
        wires: Frames that publish, in turn.
        marker: Occurs once in each message.
        digits: How many digits of a number follow the marker; 0: none.
        alive: A frame that every connection sends now and then; None: no frame.
        idle: Connections that get nothing and are only kept alive.
        is_spread: Each publication goes to one of the subscribers, not to all.
    """

    def __init__(
        self,
        publisher: RawClient,
        clients: Sequence[RawClient],
        *,
        wires: Sequence[bytes],
        marker: bytes,
        digits: int,
        alive: bytes | None,
        idle: Sequence[RawClient] = (),
        is_spread: bool = False,
    ) -> None:
        self.size: Final = 1 if is_spread else len(clients)
        self._publisher: Final = publisher
        self._clients: Final = clients
        self._idle: Final = idle
        self._open: Final = {client.sock.fileno(): client for client in clients}
        self._shared: Final = Tally() if is_spread else None
        self._life_shown_at = perf_counter()
        self._wires: Final = [_halves(wire, marker, digits) for wire in wires]
        self._marker: Final = marker
        self._digits: Final = digits
        self._alive: Final = alive
        # The beginning of a marker and its number, which the next read completes.
        self._keep: Final = len(marker) + digits - 1
        self._buffer: Final = bytearray(self._keep + _READ)
        self._room: Final = memoryview(self._buffer)[self._keep :]
        self._published = 0
        self._uneven = 0
        self._epoll: Final = select.epoll()
        for number, client in self._open.items():
            client.sock.settimeout(0)
            self._epoll.register(number, select.EPOLLIN)
        for client in idle:
            client.sock.settimeout(0)
        publisher.sock.settimeout(0)
        if publisher not in clients:
            self._epoll.register(publisher.sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Unregister the connections; they stay open."""
        self._room.release()
        self._epoll.close()

    def run(
        self,
        schedule: Schedule,
        publications: int,
        patience: float,
        progress: Callable[[int], None] | None,
    ) -> Run:
        """Publish, and read until all have everything or nothing comes any more; repeatable."""
        for client in self._clients:
            client.expected = self._published
        tallies = [self._shared] if self._shared else self._clients
        run = Run(schedule, publications, tallies, patience, progress)
        while self._open and not run.is_over:
            for _ in range(run.due()):
                self._publish()
            self._publisher.send_soon()
            events = self._epoll.poll(run.wait(), _EVENTS_AT_ONCE)
            for number, _ in events:
                self._read(number, run)
            run.settle(heard=bool(events))
            self._show_life()
        return run

    def _publish(self) -> None:
        before, after = self._wires[self._published % len(self._wires)]
        if self._digits:
            number = self._published % 10**self._digits
            self._publisher.send_soon(b"%b%0*d%b" % (before, self._digits, number, after))
        else:
            self._publisher.send_soon(before)
        self._published += 1

    def _read(self, number: int, run: Run) -> None:
        client = self._open.get(number)
        if client is None:
            self._publisher.discard_input()
            return
        buffer, tail, keep = self._buffer, client.tail, self._keep
        start = keep - len(tail)
        buffer[start:keep] = tail
        try:
            size = client.recv_into(self._room)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._lose(number, run)
            return
        end = keep + size
        found = buffer.count(self._marker, start, end - self._digits)
        client.tail = bytes(buffer[max(start, end - keep) : end])
        if found:
            if self._digits:
                run.reordered += self._out_of_order(client, start, end, found)
            run.count(self._shared or client, found)

    def _lose(self, number: int, run: Run) -> None:
        client = self._open.pop(number)
        self._epoll.unregister(number)
        run.closed += 1
        if self._shared is None:
            run.lose(client)

    def _out_of_order(self, client: RawClient, start: int, end: int, found: int) -> int:
        """Return how many messages came after a later one, or twice."""
        marker, digits, buffer = self._marker, self._digits, self._buffer
        width = len(marker)
        first = buffer.find(marker, start) + width
        last = buffer.rfind(marker, start, end - digits) + width
        lowest = int(buffer[first : first + digits])
        highest = int(buffer[last : last + digits])
        expected, client.expected = client.expected, highest + 1
        is_plain = lowest == expected and highest - lowest + 1 == found
        if is_plain and (
            found < 3
            or self._is_in_steps(first, last, lowest, found)
            or self._is_in_order(first, last, lowest, found)
        ):
            return 0
        late = 0
        at = first
        for _ in range(found):
            this = int(buffer[at : at + digits])
            late += this < expected
            expected = max(expected, this + 1)
            at = buffer.find(marker, at, end - digits) + width
        client.expected = expected
        return late

    def _is_in_steps(self, first: int, last: int, lowest: int, found: int) -> bool:
        """Tell whether the last two digits of all numbers are in order.

        Parsing each number would cost several times as much as everything else here. In most reads
        all messages have the same length, so that one digit of all of them is one slice.
        """
        step, rest = divmod(last - first, found - 1)
        if rest or found > _MOST_IN_STEPS:
            return False
        at, ones = lowest % 100, slice(first + self._digits - 1, last + self._digits, step)
        tens = slice(ones.start - 1, ones.stop - 1, step)
        buffer = self._buffer
        return buffer[ones] == _ONES[at : at + found] and buffer[tens] == _TENS[at : at + found]

    def _is_in_order(self, first: int, last: int, lowest: int, found: int) -> bool:
        """Tell the same for messages of different lengths; of many reads, check one in four."""
        self._uneven += 1
        if found > _MOST_IN_STEPS or (found > _FEW and self._uneven % 4):
            return True
        digits, at = self._digits, lowest % 100
        pieces = self._buffer[first : last + digits].split(self._marker)
        pairs = b"".join([piece[digits - 2 : digits] for piece in pieces])
        return pairs == _PAIRS[2 * at : 2 * (at + found)]

    def _show_life(self) -> None:
        now = perf_counter()
        if self._alive is not None and now - self._life_shown_at > ALIVE_SECONDS:
            self._life_shown_at = now
            for client in (self._publisher, *self._open.values(), *self._idle):
                client.send_soon(self._alive)


def _halves(wire: bytes, marker: bytes, digits: int) -> tuple[bytes, bytes]:
    """Return the parts of a publication before and after its number."""
    if not digits:
        return wire, b""
    before, found, after = wire.partition(marker)
    if not found or digits < 2 or not after[:digits].isdigit():
        raise BenchError(f"what is published must hold {marker!r} and {digits} digits")
    return before + marker, after[digits:]
