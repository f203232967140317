"""Measures for how long one client's frame holds the event loop at a time.

::

    python -m tests.benchmarks.holds [--rounds 5] [--protocol wsbus.v1]

Each content is put into frames of 64 KiB and handed to the reader of a connection that has no
socket. What is timed is each step between two turns of the loop; the figure is the longest step of
a frame, the least of several rounds. It is processor time, without garbage collection of what
other rounds left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from wsbus import Bus, Grants, Handshake, HeartbeatPolicy, Limits
from wsbus.bus import host_of
from wsbus.core.instant import Instant
from wsbus.endpoint import Admission
from wsbus.server.driver import Driver
from wsbus.testing import DirectMemoryTransport

SIZE: Final = 64 * 1024


def filled(head: str, item: str, tail: str, between: str = "") -> str:
    """Return ``head``, as many items as fit, and ``tail``."""
    count = (SIZE - len(head) - len(tail) + len(between)) // (len(item) + len(between))
    return head + between.join([item] * count) + tail


def numbered(head: str, item: Callable[[int], str], tail: str, between: str = ",") -> str:
    """Return the same with items that differ."""
    items, size = [], len(head) + len(tail)
    for i in range(SIZE):
        text = item(i)
        size += len(text) + len(between)
        if size > SIZE:
            break
        items.append(text)
    return head + between.join(items) + tail


def nested(depth: int, inner: str = "") -> str:
    """Return arrays in arrays."""
    return "[" * depth + inner + "]" * depth


PUBLISH: Final = '{"type":"publish","id":"1","channel":"a","data":'
COMMAND: Final = '{"type":"command","id":"1","action":"echo","params":'
SUBSCRIBE: Final = '{"type":"subscribe","id":"1","channels":['
IGNORED: Final = '{"type":"ping","id":"1","ignored":'

_VALUES: Final[dict[str, str]] = {
    "empty arrays": filled("[", "[]", "]", ","),
    "empty objects": filled("[", "{}", "]", ","),
    "arrays 6 deep": filled("[", nested(6), "]", ","),
    "arrays 6 deep, one for four characters": filled("[", nested(6, "12345678901"), "]", ","),
    "arrays 60 deep": filled("[", nested(60), "]", ","),
    "up and down at 60 deep": nested(56, filled("", nested(4), "", ",")[: -SIZE // 500]),
    "32,000 deep": nested(32_000),
    "open brackets": "[" * 65_000,
    "keys": numbered("{", lambda i: f'"{i}":0', "}"),
    "objects with a key": numbered("[", lambda i: f'{{"{i}":0}}', "]"),
    "digits": filled("[", "1", "]", ","),
    "numbers": numbered("[", str, "]"),
    "long fractions": filled("[", "0." + "1234567890" * 30, "]", ","),
    "one number of 65,000 digits": "1" * 65_000,
    "numbers of 4,300 digits": filled("[", "9" * 4_300, "]", ","),
    "numbers of 999 digits": filled("[", "9" * 999, "]", ","),
    "fractions": filled("[", "1.7976931348623157e308", "]", ","),
    "empty texts": filled("[", '""', "]", ","),
    "escapes": '"' + "\\n" * 32_000 + '"',
    "escaped quotes": '"' + '\\"' * 32_000 + '"',
    "unicode escapes": '"' + "\\u20ac" * 10_000 + '"',
    "surrogate pairs": '"' + "\\ud83d\\ude00" * 5_000 + '"',
    "brackets in texts": filled("[", '"[["', "]", ","),
    "euro signs": '"' + "€" * 21_000 + '"',
    "true": filled("[", "true", "]", ","),
    "white space": " " * 65_000 + "1",
}


def contents() -> Iterator[tuple[str, str]]:
    """Yield what a frame may hold, with a name."""
    for name, value in _VALUES.items():
        for where, head in (("publish", PUBLISH), ("command", COMMAND), ("ignored", IGNORED)):
            room = SIZE - len(head) - 1
            whole = value if len(value) <= room else value[:room]
            yield f"{where}: {name}", f"{head}{whole}}}"
            yield f"{where}, then junk: {name}", f"{head}{whole[: room - 2]}}}x"
            wide = f'{head}[{value[: room - 8]},"€"]}}'
            yield f"{where}, with a euro sign: {name}", wide
            yield f"{where}, then a surrogate: {name}", f'{head}{whole[:-9]},"\ud800"}}'[:SIZE]
        yield f"alone: {name}", value[:SIZE]
    yield "subscribe: empty names", filled(SUBSCRIBE, '""', "]}", ",")
    yield "subscribe: names", numbered(SUBSCRIBE, lambda i: f'"a.{i}"', "]}")
    for count in (128, 8):
        names = ",".join(f'"a.b.c.{i}.+"' for i in range(count))
        yield (
            f"subscribe, lines of {count} names",
            filled("", f'{{"type":"subscribe","channels":[{names}]}}', "", "\n"),
        )
    yield "subscribe: numbers", filled(SUBSCRIBE, "1", "]}", ",")
    yield "an id of 64 KiB", '{"type":"ping","id":"' + "a" * 65_000 + '"}'
    yield "an action of 64 KiB", '{"type":"command","id":"1","action":"' + "a" * 65_000 + '"}'
    yield "a channel of 64 KiB", '{"type":"publish","data":1,"channel":"' + "a." * 32_000 + '"}'
    yield "a type of 64 KiB", '{"type":"' + "a" * 65_000 + '"}'
    yield "a token of 64 KiB", '{"type":"auth","token":"' + "a" * 65_000 + '"}'
    yield "many ids", filled("{", '"id":"1"', "}", ",")
    yield "blank lines", "\n" * 65_000
    yield "spaces and lines", " \n" * 32_000
    for line in (
        "[]",
        "{}",
        "0",
        '"',
        '{"type":"ping"}',
        '{"type":"ping","id":"1"}',
        '{"type":"pong"}',
        '{"type":"get_status"}',
        '{"type":"publish","channel":"a","data":1}',
        '{"type":"command","action":"echo","id":"1"}',
        '{"type":"subscribe","channels":["a"]}',
        '{"type":"unsubscribe","channels":["a"]}',
        '{"type":"auth","token":"a"}',
        '{"id":"1"}',
        nested(70),
    ):
        yield f"lines: {line[:48]}", filled("", line, "", "\n")


async def longest(text: str, protocol: str, rounds: int, *, is_slow: bool = False) -> float:
    """Return the longest hold in seconds, the least of several rounds."""
    found = []
    for _ in range(rounds):
        bus = Bus(clock=_Clock())

        @bus.command("echo")
        def echo(params: dict[str, Any]) -> None:
            return None

        rates: dict[str, Any] = {"messages_per_second": 1e9, "commands_per_second": 1e9}
        endpoint = bus.endpoint(
            protocols=[protocol],
            origins="*",
            anonymous=Grants.of(subscribe=["*"], publish=["*"], command=["*"], admin=True),
            limits=Limits() if is_slow else Limits(**rates),
            heartbeat=HeartbeatPolicy.client_drives(),
        )
        async with bus:
            admission = await endpoint.admit(Handshake(path="/"))
            assert isinstance(admission, Admission)
            driver = Driver(host_of(bus).services, endpoint, _Deaf(), admission)
            host_of(bus).services.hub.attach(driver.member)
            gc.collect()
            found.append(_steps(driver, text))
            host_of(bus).services.hub.detach(driver.member, driver.session.patterns)
    return min(found)


def _steps(driver: Driver, text: str) -> float:
    reading = iter(driver._reader.read(text, driver.perform))
    worst, more = 0.0, True
    while more:
        began = time.process_time()
        more = next(reading, _END) is not _END
        worst = max(worst, time.process_time() - began)
        driver._reader._turn = 0  # as after a pause
    return worst


_END: Final = object()


class _Clock:
    def __call__(self) -> Instant:
        return Instant(1000.0, 1.7e9)


class _Deaf(DirectMemoryTransport):
    """Takes everything, and parses nothing."""

    def write_now(self, wire: bytes) -> None:
        """Take it."""


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--protocol", default="wsbus.v1")
    parser.add_argument("--only", default="")
    parser.add_argument("--above", type=float, default=0.0, help="show those above these ms only")
    options = parser.parse_args()
    found = []
    for name, text in contents():
        if options.only in name:
            for words, is_slow in (("", False), (" (over the rate)", True)):
                held = await longest(text, options.protocol, options.rounds, is_slow=is_slow)
                found.append((held * 1000, name + words))
    found.sort(reverse=True)
    for held, name in found:
        if held >= options.above:
            print(f"{held:8.2f} ms  {name}")
    print(json.dumps({"contents": len(found), "longest_ms": round(found[0][0], 2)}))


if __name__ == "__main__":
    asyncio.run(_main())
