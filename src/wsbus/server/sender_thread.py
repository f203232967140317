"""A sender on an event loop in a thread of its own, for callers without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from typing import Final, TypeVar

from ..broker import Broker
from ..core.envelope import Draft
from ..core.errors import BrokerUnavailable, UsageError
from ..core.feeds import Feed
from ..core.history import Stored
from .sender import Sender

__all__ = ["SenderThread"]

T = TypeVar("T")
_DRAIN_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 1.5
"""Seconds for the thread to end. It is a daemon, so that the process ends without it."""


class SenderThread:
    """Sends items from any thread; it starts at once.

    Args:
        broker: The broker.
        node: The name of the sender.
    """

    def __init__(self, broker: Broker, node: str) -> None:
        self._broker: Final = broker
        self._node: Final = node
        self._sender: Sender | None = None
        self._loop: Final = asyncio.new_event_loop()
        self._stop: Final = asyncio.Event()
        self._thread: Final = threading.Thread(target=self._run, name="wsbus-emitter", daemon=True)
        self._thread.start()

    @property
    def sender(self) -> Sender:
        """The object that sends, for calls on the thread's own event loop."""
        if self._sender is None:
            self._sender = Sender(self._broker, self._node)
        return self._sender

    def send(self, items: Sequence[tuple[Feed, bytes] | Draft], seconds: float) -> list[Stored]:
        """Return once the broker has taken all items, with the outcomes of the drafts.

        An interrupt, such as KeyboardInterrupt, ends the wait; the items may be published then.

        Raises:
            BrokerUnavailable: It has not, or not in time.
            UsageError: The broker cannot work here; or the thread has ended, or is this one.
        """
        return self.call(lambda: self.sender.send(items), seconds)

    def call(self, act: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Have something done on the thread's event loop; as :meth:`send`.

        Raises:
            WsbusError: As :meth:`send`, or whatever is raised there.
        """
        if threading.current_thread() is self._thread:
            raise UsageError("this is the emitter's own thread, which must not wait for itself")
        work = _await(act)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # The loop is closed.
            work.close()
            raise UsageError("the emitter is closed") from None
        try:
            return future.result(seconds)
        except TimeoutError:
            raise BrokerUnavailable(
                f"the broker did not take it within {seconds:g} s; this is published, or not",
                may_have_arrived=True,
            ) from None
        except CancelledError:
            raise BrokerUnavailable(
                "the emitter was closed; this is published, or not", may_have_arrived=True
            ) from None
        finally:
            future.cancel()

    def stop(self, *, waits: bool = True) -> None:
        """Hand over what was put, and end the thread. Idempotent; bounded, or it does not wait."""
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:  # It was closed meanwhile.
                return
        if waits and threading.current_thread() is not self._thread:
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        await self._stop.wait()
        if self._sender is not None:
            await self._sender.close(_DRAIN_SECONDS)


async def _await(act: Callable[[], Awaitable[T]]) -> T:
    return await act()
