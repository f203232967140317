"""The conformance suite of transports, for authors of adapters.

::

    ADAPTER = Adapter(serve=serve_mine)

    @pytest.mark.parametrize("check", TRANSPORT_CHECKS)
    async def test_my_adapter(check):
        await check_transport(ADAPTER, check)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Final, TypeAlias
from unittest import SkipTest

from anyio import fail_after

from .adapters import Adapter, require
from .checks import ending, flow, framing, opening

__all__ = ["TRANSPORT_CHECKS", "TransportCheck", "check_transport"]

TransportCheck: TypeAlias = Callable[[Adapter], Awaitable[None]]

_ALL: Final[tuple[TransportCheck, ...]] = (
    opening.handshake_as_sent,
    opening.handshake_of_any_bytes,
    opening.subprotocols,
    opening.refusals,
    opening.tokens,
    framing.text,
    framing.fragments,
    framing.pings,
    framing.oversized_messages,
    framing.binary_where_text_is_spoken,
    framing.binary_dialects,
    framing.invalid_utf8,
    flow.order_in,
    flow.order_out,
    flow.tight_publisher,
    flow.backpressure,
    flow.nothing_lost_unknowingly,
    flow.choked_reading,
    flow.stuck_peer,
    flow.ping_flood,
    ending.closed_by_the_server,
    ending.closed_by_the_client,
    ending.close_while_publishing,
    ending.abrupt_reset,
    ending.abort,
    ending.shutdown,
)

TRANSPORT_CHECKS: Final = MappingProxyType({check.__name__: check for check in _ALL})
"""Every check by its name; its docstring is the law that it checks."""

_SECONDS: Final = 30.0


async def check_transport(adapter: Adapter, name: str | None = None) -> None:
    """Check one law of :data:`TRANSPORT_CHECKS`, or all of them in turn.

    The checks use real sockets and real time: a few seconds for all. Whatever the clients do,
    wsbus must log nothing above ``INFO``, since no operator could act on it.

    Args:
        adapter: The adapter; its server must run on the current event loop.
        name: The check; None: all.

    Raises:
        ConformanceError: The adapter breaks a law, or writes bytes that RFC 6455 forbids.
        TimeoutError: A check did not end.
        unittest.SkipTest: The adapter does not promise this law, or this machine cannot measure
            it; pytest reports a skip. Not raised where all are checked.
    """
    if name is not None:
        await _check(adapter, TRANSPORT_CHECKS[name])
        return
    for check in _ALL:
        with suppress(SkipTest):
            await _check(adapter, check)


async def _check(adapter: Adapter, check: TransportCheck) -> None:
    with _silence(), fail_after(_SECONDS):
        await check(adapter)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: Final[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Warnings for operators are allowed: about settings (refused origins, uvicorn's options),
        # and about connections that are too slow.
        is_for_operators = record.name in {"wsbus.endpoint", "wsbus.asgi", "wsbus.flusher"}
        if not is_for_operators or record.levelno > logging.WARNING:
            self.said.append(record.getMessage())


@contextmanager
def _silence() -> Iterator[None]:
    listener, logger = _Listener(), logging.getLogger("wsbus")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
    require(not listener.said, f"wsbus logged {listener.said}")
