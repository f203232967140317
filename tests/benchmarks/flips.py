"""What a publication costs while one client comes and goes 100 times a second.

500 channels get 10,000 publications a second in turn; 20 members have each of them, 1,000 have the
first one. One more client joins, and leaves 50 publications later, 100 times a second: nothing, a
wildcard that matches all channels, a pair of them in turn, one that matches none, or exactly the
channel with 1,000 members. Nobody waits: the second is that of the publications.

::

    python -m tests.benchmarks.flips

Figures are CPU time for each publication: of ``publish`` alone, and "in all" with the joins, the
leaves and the plans of the flushes (50 publications each). Nothing is written to a socket, so the
ratios of a server are smaller. Each is the least of some seconds. The first is left out: there the
answers are found.
"""

from __future__ import annotations

import gc
from time import thread_time

from wsbus.bench.match import _Nowhere
from wsbus.core.channels import parse_channel
from wsbus.core.hub import Hub
from wsbus.core.member import Member
from wsbus.core.messages import Publication
from wsbus.core.outlet import Owed
from wsbus.core.patterns import parse_pattern
from wsbus.core.queue import MessageQueue
from wsbus.protocols.native import Native

CHANNELS = [parse_channel(f"desk.{number}") for number in range(500)]
CASES = {
    "nothing": [],
    "a wildcard, all match": ["desk.*"],
    "everything": ["*"],
    "two wildcards in turn": ["desk.*", "*.*"],
    "a wildcard, none matches": ["elsewhere.*"],
    "1,000 members, exact": ["desk.0"],
}


class Flips:
    """A hub, and a client that comes and goes."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.protocol = Native()
        members = [self.member() for _ in range(1000)]
        for number, channel in enumerate(CHANNELS):
            for nth in range(1000 if number == 0 else 20):
                self.hub.join(members[(number * 20 + nth) % 1000], parse_pattern(channel))
        self.flipping = self.member()

    def member(self) -> Member:
        """Make a member that is only looked up."""
        member = Member(self.protocol, MessageQueue[Owed](), _Nowhere())
        self.hub.attach(member)
        return member

    def second(self, patterns: list[str]) -> tuple[float, float]:
        """Return the microseconds of a publication, and with its share of the flips."""
        parsed = [parse_pattern(text) for text in patterns]
        publications = [Publication(channel, "e", b"1", 0.0) for channel in CHANNELS]
        published = whole = 0.0
        for start in range(0, 10_000, 50):
            began = thread_time()
            if patterns:
                change = self.hub.leave if start % 100 else self.hub.join
                change(self.flipping, parsed[start // 100 % len(parsed)])
            middle = thread_time()
            for number in range(start, start + 50):
                # Not always the same channels come after a join.
                self.hub.publish(publications[(number * 7 + number // 500) % 500])
            published += thread_time() - middle
            self.hub.take_plan()
            whole += thread_time() - began
        self.hub.table.settle()  # As a bus does each second.
        return published / 10_000 * 1e6, whole / 10_000 * 1e6


def main() -> None:
    """Print the figures."""
    tables = {case: Flips() for case in CASES}
    seconds: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    gc.disable()
    for _ in range(8):
        for case, patterns in CASES.items():
            seconds[case].append(tables[case].second(patterns))
    least = {
        case: [min(each) for each in zip(*found[1:], strict=True)]
        for case, found in seconds.items()
    }
    alone = least["nothing"]
    print(f"{'joins and leaves':26}   publish          in all")
    for case, figures in least.items():
        pairs = zip(figures, alone, strict=True)
        print(f"{case:26}", *(f"{own:6.2f} µs {own / base:5.2f}×" for own, base in pairs))


if __name__ == "__main__":
    main()
