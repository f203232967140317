"""Counters of a bus for `Prometheus <https://prometheus.io>`_, read when it asks.

::

    from prometheus_client import REGISTRY

    REGISTRY.register(BusCollector(bus))

Nothing is counted for it: a scrape reads what the bus counts anyway. No label names a channel, a
user or a connection, so that the number of series does not depend on clients. The reference page of
the metrics has every name.

Needs the extra ``prometheus``.
"""

from __future__ import annotations

from ._extras import missing_extra

try:
    import prometheus_client as _prometheus_client  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.prometheus", "prometheus", _exc) from None

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from .bus import Bus, host_of
from .core.choices import is_number, shown
from .core.errors import NotStarted, UsageError
from .server.relay import LinkStatistics
from .server.statistics import BusStatistics

__all__ = ["BusCollector"]

T = TypeVar("T")
_Family: TypeAlias = type[GaugeMetricFamily | CounterMetricFamily]


class BusCollector(Collector):
    """Shows a bus to Prometheus; register one in a registry of ``prometheus_client``.

    It may be asked in any thread: in another one than the event loop's it waits for the loop. While
    the bus does not run, ``wsbus_up`` is 0, and nothing is said of what it counts. A registry takes
    one: a second bus in the process needs a registry, and a path, of its own.

    Args:
        bus: The bus.
        timeout: Seconds that another thread waits for the event loop; then the scrape fails.

    Raises:
        UsageError: An argument is wrong.

    Cost: a walk over the connections, about a microsecond for each.
    """

    def __init__(self, bus: Bus, *, timeout: float = 5.0) -> None:
        if not isinstance(bus, Bus):
            raise UsageError(f"a collector shows a bus, not {shown(bus)}")
        if not (is_number(timeout) and timeout > 0):
            raise UsageError(f"timeout is a number of seconds above 0, not {shown(timeout)}")
        self._host: Final = host_of(bus)
        self._timeout: Final = timeout

    def describe(self) -> Iterator[Metric]:
        """Yield all metrics, without values, so that a registry sees that no name is taken."""
        yield _version()
        for metrics in (_STATE, _BUS, _LINK):
            yield from _named(metrics)
        yield _dropped({})

    def collect(self) -> Iterator[Metric]:
        """Yield what the bus has counted until now.

        Raises:
            UsageError: The event loop was blocked for the whole timeout.
        """
        found = self._statistics()
        is_ready = found is not None and self._host.is_healthy
        yield _version()
        yield from _read(_STATE, (found is not None, is_ready))
        if found is None:
            return
        yield from _read(_BUS, found)
        yield _dropped(_losses(found))
        if found.broker is not None:
            yield from _read(_LINK, found.broker)

    def _statistics(self) -> BusStatistics | None:
        """Return the counters; None: the bus is not running."""
        if not self._host.is_running:
            return None
        try:
            return self._host.statistics_threadsafe(self._timeout)
        except NotStarted:  # It has ended meanwhile.
            return None


class _Metric(NamedTuple, Generic[T]):
    family: _Family
    name: str
    text: str
    read: Callable[[T], float | None]
    """None: there is no value yet."""


def _gauge(name: str, text: str, read: Callable[[T], float | None]) -> _Metric[T]:
    return _Metric(GaugeMetricFamily, name, text, read)


def _counter(name: str, text: str, read: Callable[[T], float | None]) -> _Metric[T]:
    return _Metric(CounterMetricFamily, name, text, read)


def _named(metrics: Iterable[_Metric[Any]]) -> Iterator[Metric]:
    for metric in metrics:
        yield metric.family(metric.name, metric.text)


def _read(metrics: Iterable[_Metric[T]], found: T) -> Iterator[Metric]:
    for metric in metrics:
        value = metric.read(found)
        if value is not None:
            yield metric.family(metric.name, metric.text, value=value)


@cache
def _installed() -> str:
    try:
        return version("wsbus")
    except PackageNotFoundError:  # Packed into an executable.
        return "unknown"


def _version() -> Metric:
    return InfoMetricFamily("wsbus", "The version of wsbus.", value={"version": _installed()})


def _dropped(losses: Mapping[str, int]) -> Metric:
    text = "Deliveries that did not reach their receiver, by the reason."
    found = CounterMetricFamily("wsbus_deliveries_dropped", text, labels=["reason"])
    for reason, count in losses.items():
        found.add_metric([reason], count)
    return found


def _losses(found: BusStatistics) -> dict[str, int]:
    """Return why deliveries were lost; what a history gave back is counted apart from these.

    ``dropped`` of the statistics falls when that happens, and a counter must not.
    """
    return {
        "evicted": found.dropped + found.regained - found.conflated,
        "conflated": found.conflated,
        "refused": found.refused,
        "discarded": found.discarded,
    }


_STATE: Final[tuple[_Metric[tuple[bool, bool]], ...]] = (
    _gauge("wsbus_up", "Whether the bus runs.", lambda x: x[0]),
    _gauge(
        "wsbus_ready",
        "Whether it takes connections: it runs, is not drained, and reaches its broker.",
        lambda x: x[1],
    ),
)

_BUS: Final[tuple[_Metric[BusStatistics], ...]] = (
    _gauge("wsbus_connections", "Connections that are there.", lambda x: x.connections),
    _gauge(
        "wsbus_connections_blocked",
        "Connections to which nothing can be written just now.",
        lambda x: x.blocked,
    ),
    _counter("wsbus_connections_accepted", "Connections accepted.", lambda x: x.connections_ever),
    _counter(
        "wsbus_connections_failed",
        "Connections lost to a write that failed or took too long.",
        lambda x: x.failures,
    ),
    _gauge("wsbus_patterns", "Distinct patterns that are subscribed to.", lambda x: x.patterns),
    _counter(
        "wsbus_messages_received", "Messages received from clients.", lambda x: x.messages_received
    ),
    _counter(
        "wsbus_messages_malformed",
        "Received messages that their dialect did not understand.",
        lambda x: x.malformed,
    ),
    _counter(
        "wsbus_messages_sent",
        "Messages sent to clients: publications, replies and pings.",
        lambda x: x.messages_sent,
    ),
    _counter(
        "wsbus_replies_unsaid", "Replies for which a dialect has no message.", lambda x: x.unsaid
    ),
    _counter(
        "wsbus_publications",
        "Publications, those of other nodes included.",
        lambda x: x.publications,
    ),
    _counter("wsbus_deliveries", "Publications times the receivers of each.", lambda x: x.matched),
    _counter(
        "wsbus_deliveries_sent",
        "Deliveries that were written, or taken inside the process.",
        lambda x: x.sent,
    ),
    _counter(
        "wsbus_deliveries_regained",
        "Evicted deliveries that were read from a history and sent after all.",
        lambda x: x.regained,
    ),
    _gauge(
        "wsbus_queued_publications",
        "Publications that wait in the queues of slow connections.",
        lambda x: x.queued,
    ),
    _gauge("wsbus_queued_bytes", "Bytes of these.", lambda x: x.queued_bytes),
    _counter(
        "wsbus_flushes",
        "Turns of the event loop in which something was written.",
        lambda x: x.flushes,
    ),
)

_LINK: Final[tuple[_Metric[LinkStatistics], ...]] = (
    _gauge("wsbus_broker_up", "Whether there is a link to the broker.", lambda x: x.is_up),
    _gauge("wsbus_broker_nodes", "Nodes that this one knows, itself included.", lambda x: x.nodes),
    _gauge(
        "wsbus_broker_feeds",
        "Channels and prefixes that are followed at the broker.",
        lambda x: x.feeds,
    ),
    _gauge(
        "wsbus_broker_round_trip_seconds",
        "Time that the last probe took to the broker and back.",
        lambda x: x.round_trip,
    ),
    _gauge(
        "wsbus_broker_lag_seconds",
        "Time from another node to here, of what came last; clocks may differ.",
        lambda x: x.lag,
    ),
    _counter("wsbus_broker_link_losses", "How often the link was lost.", lambda x: x.losses),
    _counter(
        "wsbus_broker_gaps",
        "How often subscribers got a gap because something of other nodes may be missing.",
        lambda x: x.gaps,
    ),
    _counter("wsbus_broker_turns_sent", "Calls that the broker has taken.", lambda x: x.turns),
    _counter("wsbus_broker_items_sent", "Items in these calls.", lambda x: x.sent),
    _counter(
        "wsbus_broker_items_unconfirmed",
        "Items that the broker did not confirm.",
        lambda x: x.unconfirmed,
    ),
    _counter(
        "wsbus_broker_items_received",
        "Items of other nodes, copies included.",
        lambda x: x.received,
    ),
    _counter(
        "wsbus_broker_items_copied",
        "Received items that had come already, and were dropped.",
        lambda x: x.copies,
    ),
    _counter(
        "wsbus_broker_envelopes_received",
        "Messages of the broker that held these items.",
        lambda x: x.envelopes,
    ),
    _counter(
        "wsbus_broker_envelopes_late",
        "Messages that came behind later ones of their node, and were dropped.",
        lambda x: x.late,
    ),
    _counter(
        "wsbus_broker_envelopes_unreadable",
        "Messages that could not be read.",
        lambda x: x.unreadable,
    ),
)
