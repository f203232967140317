"""The workloads of the commands of ``wsbus bench``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import msgspec

from .idle import idle
from .load import (
    FanoutResult,
    FixedRate,
    Load,
    Script,
    Window,
    fanout,
    need_files,
    round_trips,
)
from .report import progress_bar
from .scripts import bus_script, call_script, subscription
from .target import External, MeasuredServer

__all__ = [
    "add_ratios",
    "measure_calls",
    "measure_fanout",
    "measure_idle",
    "measure_rooms",
    "measure_stress",
    "median_of",
]

_NEVER = "3600"
"""Seconds between pings that do not come while it is measured."""


def median_of(results: Sequence[FanoutResult]) -> FanoutResult:
    """Return the median of each figure, and the worst count of losses and other failures."""
    worst: dict[str, Callable[[Any], Any]] = {
        "lost": max,
        "reordered": max,
        "closed": max,
        "deliveries": min,
    }
    figures: dict[str, Any] = {}
    for name in FanoutResult.__struct_fields__:
        known = [each for result in results if (each := getattr(result, name)) is not None]
        figure = worst.get(name, median)(known) if known else None
        is_whole = all(isinstance(value, int) for value in known)
        figures[name] = round(figure) if is_whole and figure is not None else figure
    return FanoutResult(**figures)


def measure_fanout(
    target: MeasuredServer,
    settings: Mapping[str, Any],
    outstanding: int,
    *,
    readers: int,
    stuck: int,
    progress: Callable[[int], None],
) -> FanoutResult:
    """Publish to all subscribers of some channels with a window; see :func:`.fanout`.

    Args:
        target: The server.
        settings: ``protocol``, ``channels``, ``payload``, ``publications``.
        outstanding: The window.
        readers: Number of subscribers that read.
        stuck: Number of subscribers that never read.
        progress: Called with the number of publications completed since.
    """
    need_files(readers + stuck)
    channels = [f"bench{number}" for number in range(settings["channels"])]
    script = bus_script(settings["protocol"], channels=channels, payload=settings["payload"])
    with target.open() as server:
        return fanout(
            server.port,
            server.pid,
            replace(script, path=target.path),
            host=server.host,
            subscribers=readers,
            outstanding=outstanding,
            publications=settings["publications"],
            stuck=stuck,
            progress=progress,
        )


def measure_stress(
    target: MeasuredServer, settings: Mapping[str, Any], *, progress: Callable[[int], None]
) -> FanoutResult:
    """Publish to all at a fixed rate, after at most a second of it to warm up.

    Args:
        target: The server.
        settings: ``protocol``, ``payload``, ``connections``, ``rate``, ``seconds``.
        progress: Called with the number of connections and publications completed since.
    """
    rate, seconds = settings["rate"], settings["seconds"]
    need_files(settings["connections"])
    script = bus_script(settings["protocol"], payload=settings["payload"])
    with _load(target, script) as load:
        load.join(settings["connections"], progress=progress)
        load.run(FixedRate(rate), max(1, round(rate * min(1.0, seconds))))
        return load.run(FixedRate(rate), max(1, round(rate * seconds)), progress=progress)


def measure_rooms(
    target: MeasuredServer,
    settings: Mapping[str, Any],
    connections: int,
    *,
    is_spread: bool,
    progress: Callable[[int], None],
) -> FanoutResult:
    """Publish with each connection subscribed to a channel of its own.

    Args:
        target: The server.
        settings: ``protocol``, ``payload``, ``publications``, ``outstanding``.
        connections: Number of connections, and of channels.
        is_spread: Whether to publish on all channels in turn, or on one.
        progress: Called with the number of connections and publications completed since.
    """
    need_files(connections)
    names = [f"room.{number:06}" for number in range(connections)]
    script = bus_script(
        settings["protocol"],
        channels=names if is_spread else names[:1],
        payload=settings["payload"],
        digits=not is_spread,
    )
    window = Window(settings["outstanding"])
    with _load(target, script) as load:
        load.join(
            connections if is_spread else 1,
            idle=0 if is_spread else connections - 1,
            hello=lambda number: subscription(names[number]),
            is_spread=is_spread,
            progress=progress,
        )
        load.run(window, max(200, connections if is_spread else 0))
        return load.run(window, settings["publications"], progress=progress)


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each second row the ratio of its cost to that of the row before it."""
    for fewest, most in zip(rows[::2], rows[1::2], strict=True):
        known = fewest["cpu_us"] and most["cpu_us"]
        fewest["ratio"] = 1.0
        most["ratio"] = most["cpu_us"] / fewest["cpu_us"] if known else None


def measure_calls(
    target: MeasuredServer,
    settings: Mapping[str, Any],
    action: str,
    outstanding: int,
    *,
    progress: Callable[[int], None],
) -> FanoutResult:
    """Call a command that answers with its data; see :func:`.round_trips`.

    Args:
        target: The server.
        settings: ``protocol``, ``payload``, ``calls``.
        action: The command.
        outstanding: The window.
        progress: Called with the number of answers received since.
    """
    script = call_script(settings["protocol"], action, payload=settings["payload"])
    with target.open() as server:
        return round_trips(
            server.port,
            server.pid,
            replace(script, path=target.path),
            host=server.host,
            outstanding=outstanding,
            calls=settings["calls"],
            progress=progress,
        )


def measure_idle(target: MeasuredServer, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for a server that does not ping, and one for a server that does.

    Args:
        target: The server; one that is running already gets one row.
        settings: ``protocol``, ``connections``, ``seconds``, ``ping_interval``.
    """
    every = f"{settings['ping_interval']:g}"
    cases = {"none": _NEVER, f"every {every} s": every}
    if isinstance(target, External):
        cases = {"as it is": ""}
    script = replace(bus_script(settings["protocol"]), path=target.path)
    connections = settings["connections"]
    need_files(connections)
    for case, interval in cases.items():
        with (
            target.open("--ping-interval", interval) as server,
            progress_bar(f"{target.name}, pings: {case}", connections) as advance,
        ):
            result = idle(
                server,
                script,
                connections=connections,
                seconds=settings["seconds"],
                progress=advance,
            )
        yield {"server": target.name, "case": case} | msgspec.structs.asdict(result)


@contextmanager
def _load(target: MeasuredServer, script: Script) -> Iterator[Load]:
    with (
        target.open() as server,
        Load(server.port, server.pid, replace(script, path=target.path), host=server.host) as load,
    ):
        yield load
