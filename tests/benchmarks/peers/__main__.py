"""wsbus and its peers, side by side: one publication to many connections, and a command's answer.

::

    pip install -e '.[benchmarks]'
    python -m tests.benchmarks.peers --write docs/explanation/performance

From the root of the repository, this runs all that are installed and writes ``table.md``,
``plot.svg`` and ``results.json``. Each server has one core, and the load, on raw sockets, another.
What one client publishes goes to all subscribers as one message of 200 bytes. Messages are counted,
not frames, and numbered: what is lost or comes out of order is told. Rounds go over all servers in
turn, so that a minute in which the machine is disturbed does not fall on one of them alone.

wsbus does here all that it does elsewhere: it checks and decodes what is published, counts, bounds
its queues and sends heartbeats. The others pass on the text that they are given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from wsbus.bench.load import BenchError, cores, need_files, pinned

from . import measure, results
from .plot import plot
from .registry import MESSAGE_BYTES, PEERS, RESPONDERS, Peer, Responder, missing, versions
from .results import Report, Row, Sample, number
from .table import table

RESULTS: Final = "results.json"
_PEERS: Final = {peer.name: peer for peer in PEERS}
_RESPONDERS: Final = {responder.name: responder for responder in RESPONDERS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, tell how it goes, and write what came of it."""
    options = _options(arguments)
    if options.render:
        kept = msgspec.json.decode((options.write / RESULTS).read_bytes(), type=Report)
        _write(kept, options.write)
        return
    report = _empty_report(options)
    server_core, load_core = cores()
    if server_core == load_core:
        _say("there is one core only: server and load share it, and disturb each other\n")
    need_files(options.subscribers)
    with pinned(load_core):
        for turn in range(1, options.rounds + 1):
            _round(report, options, turn, server_core)
            if options.write is not None:  # Every round: a run that is broken off leaves something.
                _write(report, options.write)
    print(table(report))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [*_PEERS, *_RESPONDERS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Names: {', '.join(names)}.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="which servers; by default all")
    add("--rounds", type=int, default=5, help="of which the median is taken (5)")
    add("--subscribers", type=int, default=500, help="of one channel (500)")
    add("--outstanding", type=int, nargs="+", default=[1, 16, 64], help="publications (1 16 64)")
    add("--publications", type=int, help="each time; by default as many as fill --seconds")
    add("--clients", type=int, default=50, help="that call commands, one outstanding each (50)")
    add("--calls", type=int, help="each time; by default as many as fill --seconds")
    add("--seconds", type=float, default=3.0, help="of each measurement, about (3)")
    add("--write", type=Path, metavar="DIRECTORY", help="where table, plot and results go")
    add("--render", action="store_true", help="measure nothing: draw the results there again")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.render and options.write is None:
        parser.error("--render needs --write")
    return options


def _empty_report(options: argparse.Namespace) -> Report:
    """Return a report with a row for each server that is installed, and tell which are not."""
    absent: list[str] = []
    report = Report(
        machine=results.machine(),
        subscribers=options.subscribers,
        message_bytes=MESSAGE_BYTES,
        clients=options.clients,
        rounds=options.rounds,
        fanout=list(_rows(PEERS, options.names, absent)),
        calls=list(_rows(RESPONDERS, options.names, absent)),
        missing=absent,
    )
    for text in absent:
        _say(f"not installed: {text}\n")
    return report


def _rows(
    servers: Iterable[Peer | Responder], names: Sequence[str], absent: list[str]
) -> Iterator[Row]:
    for server in servers:
        if names and server.name not in names:
            continue
        remedy = missing(server.needs)
        if remedy is not None:
            absent.append(f"{server.label} (`{remedy}`)")
        else:
            told = versions(server.needs)
            yield Row(server.name, server.label, told, server.is_ours, server.note)


def _round(report: Report, options: argparse.Namespace, turn: int, core: int) -> None:
    effort = measure.Effort(
        outstanding=options.outstanding,
        subscribers=options.subscribers,
        clients=options.clients,
        seconds=options.seconds,
        publications=options.publications,
        calls=options.calls,
    )
    for row in (*report.fanout, *report.calls):
        _say(f"{turn}/{options.rounds} {row.label}:")
        try:
            if row.name in _PEERS:
                measure.fanout(_PEERS[row.name], effort, core, _taking(row))
            else:
                row.calls.append(measure.calls(_RESPONDERS[row.name], effort, core))
                _say(f" {number(row.calls[-1].cpu_us)}")
        except BenchError as exc:
            _say(f" FAILED, {exc}")
            row.failures.append(str(exc))
        _say("\n")


def _taking(row: Row) -> Callable[[int, Sample], None]:
    def take(outstanding: int, sample: Sample) -> None:
        row.add(outstanding, sample)
        _say(f" {number(sample.cpu_us)}")

    return take


def _write(report: Report, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.encode(report).replace(b'{"name"', b'\n{"name"')  # A row a line.
    (directory / RESULTS).write_bytes(encoded + b"\n")
    (directory / "table.md").write_text(table(report), encoding="utf-8")
    (directory / "plot.svg").write_text(plot(report), encoding="utf-8")


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
