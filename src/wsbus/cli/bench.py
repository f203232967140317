"""``wsbus bench``: measure servers. Its commands import what they need when they run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..bench.options import (
    COUNT,
    SERVERS,
    aimed,
    measured,
    outstanding_option,
    payload_option,
    protocol_option,
    reported,
    rounds_option,
)
from .options import broker_option

if TYPE_CHECKING:
    from ..bench.load import FanoutResult
    from ..bench.target import MeasuredServer
    from ..broker import Broker

__all__ = ["bench"]

_SECONDS: Final = click.FloatRange(0, min_open=True)
_LATENCY: Final = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms"}
_FANOUT: Final = {
    "server": "server",
    "case": "outstanding",
    "cpu_us": "CPU µs/delivery",
    "rate": "deliveries/s",
    "load_share": "load core",
    **_LATENCY,
    "rss_per_connection": "RSS bytes/connection",
    "lost": "lost",
    "reordered": "reordered",
}


@click.group()
def bench() -> None:
    """Measure what a publication, a command or a connection costs a server.

    Each measurement starts a server of its own on one core and makes the load on another, or
    measures the server at --url. Figures go to stdout, progress to stderr.
    """
    if sys.platform != "linux":
        raise click.ClickException("wsbus bench needs Linux")
    # As for Ctrl-C: the servers that were started are stopped, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@bench.command()
@click.option("--server", type=click.Choice(SERVERS), default="websockets", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--uvloop", is_flag=True, help="Run on uvloop, which must be installed.")
@click.option("--ping-interval", type=_SECONDS, help="Seconds between pings.  [default: 30]")
@click.option(
    "--flush-interval",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Seconds for which publications may wait for others.",
)
@broker_option
def serve(
    server: str,
    host: str,
    port: int,
    *,
    uvloop: bool,
    ping_interval: float | None,
    flush_interval: float,
    broker: Broker | None,
) -> None:
    """Serve a bus at /ws that lets anybody do anything, as often as they like.

    Prints host:port when it is ready. Not for a network: there is no authentication.
    """
    with reported():
        from ..bench import servers

        options = servers.Options(
            host=host,
            port=port,
            ping_interval=ping_interval,
            flush_interval=flush_interval,
            broker=broker,
            ready=click.echo,
        )
        try:
            servers.run(server, options, uvloop=uvloop)
        except OSError as exc:
            why = exc.strerror or exc
            raise click.ClickException(f"cannot listen on {host}, port {port}: {why}") from exc


@bench.command()
@aimed
@protocol_option
@payload_option
@outstanding_option(1, 16, 64)
@rounds_option
@click.option("--subscribers", type=COUNT, default=500, show_default=True)
@click.option("--publications", type=COUNT, default=2000, show_default=True)
@click.option(
    "--channels",
    type=click.IntRange(1, 128),
    default=1,
    show_default=True,
    help="All subscribers get all channels, on which publications go in turn.",
)
@click.option(
    "--stuck",
    type=click.FloatRange(0, 0.99),
    default=0.0,
    show_default=True,
    help="Share of the subscribers that never read; the figures are those of the others.",
)
def fanout(
    *,
    targets: Sequence[MeasuredServer],
    as_json: bool,
    outstanding: Sequence[int],
    rounds: int,
    subscribers: int,
    stuck: float,
    **settings: Any,
) -> None:
    """Publish to many subscribers; a publication is under way until all of them have it."""
    from ..bench.report import show
    from ..bench.workloads import measure_fanout

    held = round(subscribers * stuck)
    # With and without: the readers are the same, so that nothing else differs.
    cases = {str(window): (window, 0) for window in outstanding}
    if held:
        cases |= {f"{window}, {held} stuck": (window, held) for window in outstanding}

    def measure(target: MeasuredServer, case: str, advance: Callable[[int], None]) -> FanoutResult:
        window, present = cases[case]
        readers = subscribers - held
        return measure_fanout(
            target, settings, window, readers=readers, stuck=present, progress=advance
        )

    steps = settings["publications"]
    rows = measured(targets, list(cases), measure, rounds=rounds, steps=steps)
    settings |= {"subscribers": subscribers, "stuck": held, "rounds": rounds}
    more = {"rss_start": "RSS before", "rss_end": "RSS after"} if held else {}
    show("fanout", rows, settings, as_json=as_json, columns=_FANOUT | more)


@bench.command()
@aimed
@protocol_option
@payload_option
@click.option("--connections", type=COUNT, default=1000, show_default=True)
@click.option("--rate", type=_SECONDS, default=1000.0, show_default=True, help="Publications/s.")
@click.option("--seconds", type=_SECONDS, default=10.0, show_default=True)
def stress(*, targets: Sequence[MeasuredServer], as_json: bool, **settings: Any) -> None:
    """Publish to all connections at a fixed rate, however slow the server is."""
    from ..bench.report import show
    from ..bench.workloads import measure_stress

    def measure(target: MeasuredServer, case: str, advance: Callable[[int], None]) -> FanoutResult:
        return measure_stress(target, settings, progress=advance)

    steps = settings["connections"] + round(settings["rate"] * settings["seconds"])
    rows = measured(targets, ["paced"], measure, rounds=1, steps=steps)
    columns = {
        "server": "server",
        "rate": "deliveries/s",
        "cpu_share": "server core",
        "load_share": "load core",
        "cpu_us": "CPU µs/delivery",
        **_LATENCY,
        "rss_start": "RSS at start",
        "rss_end": "RSS at end",
        "lost": "lost",
        "reordered": "reordered",
        "closed": "closed",
    }
    show("stress", rows, settings, as_json=as_json, columns=columns)


@bench.command()
@aimed
@protocol_option
@payload_option
@rounds_option
@click.option("--connections", type=COUNT, default=10_000, show_default=True)
@click.option("--fewest", type=COUNT, default=100, show_default=True, help="To compare with.")
@click.option("--publications", type=COUNT, default=10_000, show_default=True)
@click.option("--outstanding", type=COUNT, default=16, show_default=True)
def rooms(
    *,
    targets: Sequence[MeasuredServer],
    as_json: bool,
    rounds: int,
    connections: int,
    fewest: int,
    **settings: Any,
) -> None:
    """Publish with each connection subscribed to a channel of its own: to one, and to all in turn.

    A publication is one delivery; its cost must not grow with the number of channels.
    """
    from ..bench.report import show
    from ..bench.workloads import add_ratios, measure_rooms

    cases = {
        f"{way} of {count:,}": (count, way == "each")
        for way in ("one", "each")
        for count in (fewest, connections)
    }

    def measure(target: MeasuredServer, case: str, advance: Callable[[int], None]) -> FanoutResult:
        count, is_spread = cases[case]
        return measure_rooms(target, settings, count, is_spread=is_spread, progress=advance)

    steps = settings["publications"]
    rows = measured(targets, list(cases), measure, rounds=rounds, steps=steps)
    add_ratios(rows)
    columns = {
        "server": "server",
        "case": "to",
        "cpu_us": "CPU µs/publication",
        "ratio": "ratio",
        **_LATENCY,
        "rss_per_connection": "RSS bytes/connection",
        "lost": "lost",
    }
    settings |= {"connections": connections, "fewest": fewest, "rounds": rounds}
    show("rooms", rows, settings, as_json=as_json, columns=columns)


@bench.command()
@aimed
@protocol_option
@payload_option
@outstanding_option(1, 16)
@rounds_option
@click.option("--calls", type=COUNT, default=10_000, show_default=True)
def rpc(
    *,
    targets: Sequence[MeasuredServer],
    as_json: bool,
    outstanding: Sequence[int],
    rounds: int,
    **settings: Any,
) -> None:
    """Call commands that answer with their data: an async function, and a plain one."""
    from ..bench.report import show
    from ..bench.workloads import measure_calls

    cases = {
        f"{action}, {window}": (action, window)
        for action in ("echo", "echo_sync")
        for window in outstanding
    }

    def measure(target: MeasuredServer, case: str, advance: Callable[[int], None]) -> FanoutResult:
        action, window = cases[case]
        return measure_calls(target, settings, action, window, progress=advance)

    rows = measured(targets, list(cases), measure, rounds=rounds, steps=settings["calls"])
    columns = {
        "server": "server",
        "case": "command, outstanding",
        "cpu_us": "CPU µs/round trip",
        "rate": "round trips/s",
        **_LATENCY,
        "lost": "lost",
    }
    show("rpc", rows, settings | {"rounds": rounds}, as_json=as_json, columns=columns)


@bench.command()
@aimed
@protocol_option
@click.option("--connections", type=COUNT, default=10_000, show_default=True)
@click.option("--seconds", type=_SECONDS, default=30.0, show_default=True)
@click.option("--ping-interval", type=_SECONDS, default=25.0, show_default=True)
def idle(*, targets: Sequence[MeasuredServer], as_json: bool, **settings: Any) -> None:
    """Keep subscribed connections idle: without pings, and with pings that they answer."""
    from ..bench.report import show
    from ..bench.workloads import measure_idle

    rows = [row for target in targets for row in measure_idle(target, settings)]
    columns = {
        "server": "server",
        "case": "server's pings",
        "cpu_share": "server core",
        "pings": "pings",
        "closed": "closed",
        "rss": "RSS",
        "rss_per_connection": "RSS bytes/connection",
    }
    show("idle", rows, settings, as_json=as_json, columns=columns)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--patterns",
    type=COUNT,
    default=100_000,
    show_default=True,
    help="Largest table; it is measured with 1,000 patterns, and ten times as many each time.",
)
def match(*, as_json: bool, patterns: int) -> None:
    """Look up channels in the table of subscriptions, without a server.

    paho-mqtt's matcher is measured beside it, if it is installed.
    """
    from ..bench.match import growth
    from ..bench.report import show

    columns = {
        "table": "table",
        "patterns": "patterns",
        "cached_ns": "cached ns",
        "cold_us": "cold µs",
        "add_us": "add µs",
        "discard_us": "discard µs",
        "bytes_per_pattern": "bytes/pattern",
    }
    rows = growth(patterns)
    show("match", rows, {"patterns": patterns}, as_json=as_json, columns=columns)
