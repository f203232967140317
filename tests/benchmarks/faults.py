"""Faults of the broker, many times: ``python -m tests.benchmarks.faults --runs 200``.

Each run is one of :mod:`tests.brokers.fault_runs`: two nodes under a thousand publications a
second, each behind a proxy, every id checked. The table has a row for each fault and broker. The
nodes probe more often than in production, so that a run takes two seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median

import anyio

from tests.brokers.fault_runs import FAULTS, Outcome, overflow_arguments, run, shortened
from tests.brokers.servers import KINDS, Server

_HEAD = (
    "| broker | fault | runs | acknowledged | refused | uncertain | missing, and told | silent "
    "| doubled | late | noticed (s) | back (s) |\n" + "| --- " * 12 + "|"
)


def _row(kind: str, fault: str, outcomes: Sequence[Outcome]) -> str:
    def total(name: str) -> str:
        return f"{sum(getattr(each, name) for each in outcomes):,}"

    noticed = [each.noticed for each in outcomes if each.noticed is not None]
    times = f"{median(noticed):.2f}, ≤ {max(noticed):.2f}" if noticed else "–"
    back = f"{median(each.back for each in outcomes):.2f}"
    names = ("acknowledged", "refused", "uncertain", "told", "silent", "doubled", "late")
    cells = [kind, fault, str(len(outcomes)), *map(total, names), times, back]
    return f"| {' | '.join(cells)} |"


async def _run_all(
    kinds: Sequence[str], faults: Sequence[str], runs: int, first: int, *, keeps: bool
) -> bool:
    print(_HEAD, flush=True)
    is_right = True
    for kind in kinds:
        for fault in faults:
            arguments = overflow_arguments(kind) if fault == "overflow" else []
            outcomes = []
            with Server(KINDS[kind], *arguments) as server:
                for seed in range(first, first + runs):
                    outcomes.append(await run(server, fault, seed, keeps=keeps))
                    if outcomes[-1].wrong:
                        is_right = False
                        print(f"{kind} {fault} seed {seed}: {outcomes[-1]}", file=sys.stderr)
            print(_row(kind, fault, outcomes), flush=True)
    return is_right


def main() -> int:
    """Run what the command line asks for; 1: a promise was broken."""
    parser = argparse.ArgumentParser(description="Faults of the broker, every id checked.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--broker", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--history", action="store_true", help="on channels with history")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="default: all")
    options = parser.parse_args()
    logging.getLogger("wsbus").addHandler(logging.NullHandler())
    logging.getLogger("wsbus").propagate = False
    with shortened():
        is_right = anyio.run(
            partial(_run_all, keeps=options.history),
            options.broker or [*KINDS],
            options.fault or [*FAULTS],
            options.runs,
            options.first,
        )
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
