"""Takes in what a client sends, in turns with everybody else's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, TypeAlias

from anyio import Event
from anyio.lowlevel import checkpoint

from .._log import about, escaped
from .._spawn import task_now
from ..core.actions import Action, Send
from ..core.errors import CloseCode, ErrorCode
from ..core.instant import Instant
from ..core.messages import Malformed, Refused
from ..core.session import State
from .connection import ConnectionDriver
from .services import Services

__all__ = ["Reader"]

logger: Final = logging.getLogger("wsbus.connection")

_TURN: Final = 128
"""Work after which everybody else gets a turn of the event loop: 1 for each message, and 1 for
each 64 bytes of it and of its answers, whether the messages came in one frame or in many that the
server library holds. So 64 pings, 6 requests with 128 names or one frame of 64 KiB, each of which
takes one to three milliseconds (measured). What is larger than what is left of a turn waits for the
next one."""
_SHIFT: Final = 6
_ANSWER_FACTOR: Final = 3
"""How many times larger than a frame its answers may grow before the rest of it is not read. One
answer more may be under way, so that a frame of 64 KiB brings at most four times its size back."""
_ANSWER_BYTES: Final = 64 * 1024
"""The same for small frames: some 500 refusals."""
_OUTGROWN: Final = Refused(
    ErrorCode.RATE_LIMITED, "the answers outgrow the frame: the rest of it was not read"
)
_CLOSED: Final = State.CLOSED  # To look it up takes as long as to call a function (3.11).

_Perform: TypeAlias = Callable[[Sequence[Action], Instant], None]


def answer_bound(frame: str | bytes) -> int:
    """Return how many bytes of answers a frame may bring before the rest of it is not read."""
    return max(_ANSWER_FACTOR * len(frame), _ANSWER_BYTES)


class Reader:
    """Gives a session what its client sends, no more than a turn's worth at a time.

    Args:
        services: Counts and clock.
        driver: Has the session, which decides what follows; the protocol, which decodes; and member
            and outlet, which tell whether the client reads what it is owed.
    """

    __slots__ = (
        "_absorbs",
        "_member",
        "_outlet",
        "_protocol",
        "_services",
        "_session",
        "_task",
        "_turn",
        "answered",
        "messages_received",
    )

    def __init__(self, services: Services, driver: ConnectionDriver) -> None:
        self.messages_received: int = 0
        self.answered: int = 0
        """Bytes of answers since a frame came."""
        self._services: Final = services
        self._session: Final = driver.session
        self._protocol: Final = driver.protocol
        self._member: Final = driver.member
        self._outlet: Final = driver.outlet
        self._turn = 0  # Work since others had a turn of the loop.
        self._absorbs = False
        self._task: asyncio.Task[object] | None = None

    def begin(self) -> None:
        """Note the task that reads: the current one, on asyncio."""
        self._task = task_now()

    @property
    def cancelling(self) -> int:
        """How many cancellations of the task that reads are under way."""
        return 0 if self._task is None else self._task.cancelling()

    def read(self, frame: str | bytes, perform: _Perform) -> Iterator[None]:
        """Act on what is in a frame, message by message; pause whenever it yields.

        Args:
            frame: What came.
            perform: Does what the session wants, and adds to :attr:`answered`.
        """
        services, session, member = self._services, self._session, self._member
        now, protocol = services.clock(), self._protocol
        session.heartbeat.seen(now.monotonic)
        if isinstance(frame, bytes) and not protocol.binary:
            why = f"{protocol.name} is text only"
            perform(session.close(CloseCode.UNSUPPORTED_DATA, why), now)
            return
        rate, pending, messages = session.rate, session.pending, iter(protocol.split(frame))
        self.answered = 0
        for message in messages:
            if rate is not None and rate.tokens < 1 and not rate.take(now.monotonic, 0):
                yield from self._refuse(frame, chain((message,), messages), now, perform)
                return
            work = len(message) >> _SHIFT
            if self._turn and self._turn + work > _TURN:  # It waits for the next turn.
                yield
            for command in protocol.decode(message):
                self.messages_received += 1
                services.messages_received += 1
                if type(command) is Malformed:
                    services.malformed += 1
                    logger.debug(
                        "a message was not understood: %s",
                        escaped(command.message, 300),
                        extra=about("not_understood", code=command.code),
                    )
                before = self.answered
                perform(session.handle(command, now), now)
                if session.state is _CLOSED:
                    return
                if self.answered > _ANSWER_BYTES and self.answered > answer_bound(frame):
                    perform([Send(_OUTGROWN)], now)
                    return
                self._turn = turn = self._turn + 1 + work + ((self.answered - before) >> _SHIFT)
                work = 0
                if (
                    turn >= _TURN
                    or pending.is_full
                    or member.queue.is_choked
                    or services.post.is_pressed
                ):
                    yield

    def _refuse(
        self,
        frame: str | bytes,
        messages: Iterable[str | bytes],
        now: Instant,
        perform: _Perform,
    ) -> Iterator[None]:
        """Refuse what is left of a frame; it came at one moment, so that there is no token for it.

        Nothing is decoded. The refusal is sent for each message with an ``id``, and for the first
        if it has none: the client cannot tell those without apart.
        """
        services, session, protocol = self._services, self._session, self._protocol
        is_first = True
        for message in messages:
            self.messages_received += 1
            services.messages_received += 1
            work = 1 + (len(message) >> _SHIFT)
            if self._turn and self._turn + work > _TURN:
                yield
            self._turn += work
            command = protocol.glance(message)
            if is_first or command.ref is not None:
                is_first = False
                perform(session.handle(command, now), now)
                self._turn += 3  # It is encoded and written.
                if session.state is _CLOSED or self.answered > answer_bound(frame):
                    return
            if self._turn >= _TURN or self._member.queue.is_choked:
                yield

    def absorb(self, cancelling: int) -> None:
        """Take back a cancellation of the task beyond ``cancelling`` ones; then pause soon.

        ``uncancel`` alone leaves it pending up to Python 3.12: the next wait is where it comes.
        """
        if self._task is not None and self._task.cancelling() > cancelling:
            self._task.uncancel()
            self._absorbs = True
            self._turn = _TURN

    async def pause(self) -> None:
        """Give others a turn; then wait for the client, if it sends and does not read.

        Nothing is read either while too many of its requests are not settled: that holds up only
        itself, and nothing is refused for it.

        A client that publishes waits for readers, too, as the application does.
        """
        self._turn = 0
        if self._absorbs:
            self._absorbs = False
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        await checkpoint()
        await self._settled()
        member, outlet = self._member, self._outlet
        while member.queue.is_choked and member.is_waiting:
            if outlet.has_failed:
                return
            await outlet.relief()
        if self._services.post.is_pressed:
            await self._services.post.relieved()

    async def _settled(self) -> None:
        """Wait while as many requests of the client are not settled as may be."""
        pending = self._session.pending
        while pending.is_full:
            freed = Event()
            pending.freed = freed.set
            try:
                await freed.wait()
            finally:
                pending.freed = None
