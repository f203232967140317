"""The conformance suite of brokers, for authors of one of their own.

::

    @pytest.mark.parametrize("check", BROKER_CHECKS)
    async def test_my_broker(check):
        await check_broker(lambda: MyBroker("my://127.0.0.1"), check)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import MappingProxyType
from typing import Final, TypeAlias
from unittest import SkipTest

from anyio import fail_after

from ..broker import Broker
from . import history
from .checks import links
from .nodes import BreakLinks, BrokerUnderTest

__all__ = ["BROKER_CHECKS", "BrokerCheck", "check_broker"]

BrokerCheck: TypeAlias = Callable[[BrokerUnderTest], Awaitable[None]]

_ALL: Final[tuple[BrokerCheck, ...]] = (
    links.round_trip,
    links.exact_feeds,
    links.prefix_feeds,
    links.following,
    links.unfollowing,
    links.overlaps,
    links.order,
    links.large_messages,
    links.strange_names,
    links.shared_brokers,
    links.many_follows,
    links.side_by_side,
    links.changes,
    links.wanted_feeds,
    links.empty_calls,
    links.bodies,
    links.cancellation,
    links.lost_links,
    history.kept_items,
    history.kept_order,
    history.kept_turns,
    history.kept_names,
    history.history_reads,
    history.history_trims,
    history.history_moments,
    history.history_positions,
    history.history_ages,
    history.idempotency_keys,
    history.lost_history,
)

BROKER_CHECKS: Final = MappingProxyType({check.__name__: check for check in _ALL})
"""Every check by its name; its docstring is the law that it checks."""

_SECONDS: Final = 30.0


async def check_broker(
    make_broker: Callable[[], Broker], name: str | None = None, *, cut: BreakLinks | None = None
) -> None:
    """Check one law of :data:`BROKER_CHECKS`, or all of them in turn.

    The checks use a real server, which others may use meanwhile, and take a few seconds.

    Args:
        make_broker: Makes a broker; it is called several times, and each reaches the same server.
        name: The check; None: all.
        cut: Ends every link that is open, as a network or a killed server does;
            :meth:`.FaultProxy.reset` can. The server need not be there again when it returns. None:
            what happens to a lost link is not checked.

    Raises:
        ConformanceError: The broker breaks a law.
        TimeoutError: A check did not end.
        unittest.SkipTest: The check needs ``cut``, or a link that keeps history
            (:class:`.HistoryLink`); pytest reports a skip. Not raised where all are checked.
    """
    checks = _ALL if name is None else (BROKER_CHECKS[name],)
    for check in checks:
        with suppress(*([SkipTest] if name is None else [])), fail_after(_SECONDS):
            await check(BrokerUnderTest(make_broker, cut))
