"""Faults of whole processes, many times: ``python -m tests.benchmarks.process_faults --runs 200``.

Each run is one of :mod:`tests.brokers.process_runs`, in a process of its own, with the times of a
real service. The table has a row for each fault.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import anyio
import msgspec

from tests.brokers.fault_runs import Outcome
from tests.brokers.process_runs import failover, frozen_broker, killed_node, rolling_restart
from tests.brokers.servers import KINDS, Server

_FROZEN_SECONDS: Final = 30.0
_MOST_SECONDS: Final = 180.0
"""After which a run has failed."""
_COUNTED: Final = "published acknowledged refused uncertain arrived told silent doubled late"


async def _with_redis(run: Callable[[Server, Path], Awaitable[Outcome]]) -> Outcome:
    with Server(KINDS["redis7"]) as server, tempfile.TemporaryDirectory() as directory:
        return await run(server, Path(directory))


async def _frozen(kind: str) -> Outcome:
    with Server(KINDS[kind]) as server:
        return await frozen_broker(server, _FROZEN_SECONDS)


FAULTS: Final[dict[str, Callable[[], Awaitable[Outcome]]]] = {
    "killed-node": lambda: _with_redis(killed_node),
    "rolling-restart": lambda: _with_redis(rolling_restart),
    "failover": lambda: failover(keeps=False),
    "failover-kept": lambda: failover(keeps=True),
    "frozen-redis": lambda: _frozen("redis7"),
    "frozen-nats": lambda: _frozen("nats2.15"),
}


def _run(fault: str) -> Outcome | str:
    """Run a fault in a process of its own; return why it failed, if it did."""
    command = [sys.executable, "-m", "tests.benchmarks.process_faults", "--one", fault]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it had not ended after {_MOST_SECONDS:g} s"
    if done.returncode:
        return done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Outcome)


def _row(fault: str, outcomes: list[Outcome], failed: int) -> str:
    sums = [f"{sum(getattr(each, name) for each in outcomes):,}" for name in _COUNTED.split()]
    noticed = max((each.noticed for each in outcomes if each.noticed is not None), default=0.0)
    back = max((each.back for each in outcomes), default=0.0)
    cells = [fault, str(len(outcomes)), str(failed), *sums, f"{noticed:.2f}", f"{back:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run what the command line asks for; 1: a promise was broken, or a run did not end."""
    parser = argparse.ArgumentParser(description="Faults of whole processes, every id checked.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--together", type=int, default=1, help="runs at the same time")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="default: all")
    parser.add_argument("--one", choices=FAULTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("wsbus").addHandler(logging.NullHandler())
    logging.getLogger("wsbus").propagate = False
    if options.one:
        sys.stdout.buffer.write(msgspec.json.encode(anyio.run(FAULTS[options.one])))
        return 0
    heads = ["fault", "runs", "failed", *_COUNTED.split(), "noticed ≤ s", "back ≤ s"]
    print(f"| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|", flush=True)
    is_right = True
    for fault in options.fault or FAULTS:
        with ThreadPoolExecutor(options.together) as pool:
            found = [*pool.map(_run, [fault] * options.runs)]
        outcomes = [each for each in found if isinstance(each, Outcome)]
        for reason in found:
            if isinstance(reason, str):
                is_right = False
                print(f"{fault}: {reason}", file=sys.stderr, flush=True)
        print(_row(fault, outcomes, len(found) - len(outcomes)), flush=True)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
