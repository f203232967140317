from __future__ import annotations

import asyncio
import logging
import random
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import Event, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from wsbus._application import CallFailed, Overdue, Rest, begin, call
from wsbus.server.runner import Call, Runner


@asynccontextmanager
async def running() -> AsyncIterator[Runner]:
    """Give a runner in a task group that is cancelled at the end."""
    is_done = False
    async with anyio.create_task_group() as tasks:
        yield Runner(tasks)
        is_done = True
        tasks.cancel_scope.cancel()
    assert is_done, "the task group was cancelled, and swallowed the rest of the test"


def tasks_now() -> int:
    return len(anyio.get_running_tasks())


def noting(log: list[int], n: int, *, until: Event | None = None) -> Call:
    """Return a call that notes when it begins, and waits if asked to."""

    async def call() -> None:
        log.append(n)
        if until is not None:
            await until.wait()

    return call


async def test_submitting_never_runs_a_call() -> None:
    """A call begins in a turn of its own, never inside ``submit``."""
    async with running() as runner:
        log: list[int] = []
        runner.submit(noting(log, 1))
        assert log == []
        await wait_all_tasks_blocked()

        assert log == [1]
        assert runner.running == 0


async def test_calls_begin_in_the_order_submitted() -> None:
    """Whether those before them wait or not."""
    async with running() as runner:
        log: list[int] = []
        gate = Event()
        for n in range(100):
            runner.submit(noting(log, n, until=gate if n % 3 == 0 else None))
        await wait_all_tasks_blocked()

        assert log == list(range(100))
        assert runner.running == 34
        gate.set()
        await wait_all_tasks_blocked()
        assert runner.running == 0


async def test_a_call_that_waits_delays_nobody() -> None:
    """Calls submitted before and after it began to wait all end while it waits."""
    async with running() as runner:
        log: list[int] = []
        gate = Event()
        runner.submit(noting(log, 0, until=gate))
        runner.submit(noting(log, 1))
        await wait_all_tasks_blocked()
        assert (log, runner.running) == ([0, 1], 1)
        for n in (2, 3):
            runner.submit(noting(log, n))
            await wait_all_tasks_blocked()

        assert (log, runner.running) == ([0, 1, 2, 3], 1)


async def test_a_call_may_submit_calls() -> None:
    """They run after what was submitted before them."""
    async with running() as runner:
        log: list[int] = []

        async def parent() -> None:
            runner.submit(noting(log, 2))
            await checkpoint()
            runner.submit(noting(log, 3))

        runner.submit(parent)
        runner.submit(noting(log, 1))
        await wait_all_tasks_blocked()

        assert log == [1, 2, 3]


async def test_what_a_call_raises_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The traceback is in the log; calls before and behind it run."""
    async with running() as runner:
        log: list[int] = []

        async def fail() -> None:
            raise LookupError("gone")

        async def fail_later() -> None:
            await checkpoint()
            raise LookupError("gone later")

        for call in (noting(log, 1), fail, fail_later, noting(log, 2), fail, noting(log, 3)):
            runner.submit(call)
        await wait_all_tasks_blocked()

        assert log == [1, 2, 3]
        assert runner.running == 0
    errors = [
        str(r.exc_info[1]) for r in caplog.records if r.exc_info and r.levelno == logging.ERROR
    ]
    assert sorted(errors) == ["gone", "gone", "gone later"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_call_that_awaits_what_was_cancelled_harms_nobody(*, waits: bool) -> None:
    """On asyncio that ends a call like a cancellation of its own would, but it is none."""
    async with running() as runner:
        log: list[int] = []

        async def call() -> None:
            if waits:
                await checkpoint()
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled

        runner.submit(call)
        runner.submit(noting(log, 1))
        await wait_all_tasks_blocked()
        runner.submit(noting(log, 2))
        await wait_all_tasks_blocked()

        assert log == [1, 2]
        assert runner.running == 0


async def test_a_time_limit_inside_a_call_stays_inside() -> None:
    """A call may cancel itself; its worker goes on."""
    async with running() as runner:
        log: list[int] = []

        async def limited() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await Event().wait()
            log.append(0)

        for _ in range(3):
            runner.submit(limited)
            await wait_all_tasks_blocked()
            while runner.running:  # A cancellation on its way is no task that is not blocked.
                await checkpoint()
        runner.submit(noting(log, 1))
        await wait_all_tasks_blocked()

        assert log == [0, 0, 0, 1]


async def test_cancelling_the_task_group_cancels_the_calls() -> None:
    """Those that wait are ended, and clean up."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await Event().wait()
        finally:
            ended.append("waiting")

    async with running() as runner:
        runner.submit(wait)
        await wait_all_tasks_blocked()
    assert ended == ["waiting"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("is_swallowed", [False, True])
@pytest.mark.parametrize("times", [1, 2])
async def test_who_cancels_a_worker_ends_its_call_and_no_other(
    times: int, *, is_swallowed: bool
) -> None:
    """The task of the call ends, whether the call minds or not; all other calls run."""
    async with running() as runner:
        log: list[int] = []
        gate = Event()
        begun: list[asyncio.Task[None]] = []

        async def wait() -> None:
            task = asyncio.current_task()
            assert task is not None
            begun.append(task)
            try:
                await Event().wait()
            except asyncio.CancelledError:
                if not is_swallowed:
                    raise

        runner.submit(wait)
        runner.submit(noting(log, 1, until=gate))
        await wait_all_tasks_blocked()
        for _ in range(times):
            begun[0].cancel()
        await wait_all_tasks_blocked()
        runner.submit(noting(log, 2))
        await wait_all_tasks_blocked()

        assert begun[0].done()
        assert (log, runner.running) == ([1, 2], 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_call_that_cancels_its_own_task_harms_nobody(*, waits: bool) -> None:
    """Also if it has ended before the cancellation comes, and what is behind it runs."""
    async with running() as runner:
        log: list[int] = []

        async def call() -> None:
            if waits:
                await checkpoint()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        for n in range(3):
            runner.submit(call)
            runner.submit(noting(log, n))
        await wait_all_tasks_blocked()

        assert (log, runner.running) == ([0, 1, 2], 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("is_weak", [False, True])
async def test_a_task_that_a_call_has_kept_serves_no_other(*, waits: bool, is_weak: bool) -> None:
    """To cancel it when the call has ended reaches nobody."""
    async with running() as runner:
        log: list[int] = []
        kept: list[Callable[[], asyncio.Task[Any] | None]] = []
        gate = Event()

        async def keep() -> None:
            task = asyncio.current_task()
            assert task is not None
            kept.append(weakref.ref(task) if is_weak else lambda: task)
            if waits:
                await checkpoint()

        async def wait() -> None:
            await gate.wait()
            log.append(0)

        async def ask() -> None:
            await runner.ask(60, Context(), keep)

        runner.submit(ask if waits else keep)
        await wait_all_tasks_blocked()
        for _ in range(4):
            runner.submit(wait)
            await wait_all_tasks_blocked()
        for find in kept:
            task = find()
            if task is not None:
                assert task.done()
                task.cancel()
        gate.set()
        await wait_all_tasks_blocked()

        assert log == [0] * 4


@pytest.mark.parametrize(
    "error", [GeneratorExit, SystemExit, KeyboardInterrupt, BaseException, asyncio.CancelledError]
)
@pytest.mark.parametrize("waits", [False, True])
async def test_what_is_no_exception_costs_its_call(
    error: type[BaseException], *, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a call raises is logged, and the runner goes on."""
    async with running() as runner:
        log: list[int] = []

        async def call() -> None:
            if waits:
                await checkpoint()
            raise error("on purpose")

        runner.submit(call)
        runner.submit(noting(log, 1))
        await wait_all_tasks_blocked()
        runner.submit(noting(log, 2))
        await wait_all_tasks_blocked()
        with pytest.raises(CallFailed):
            await runner.ask(60, Context(), call)

        assert (log, runner.running) == ([1, 2], 0)
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_each_call_has_a_context_of_its_own() -> None:
    """What it sets is seen by what it awaits and starts, and by no other call."""
    name = ContextVar("name", default="nobody")
    context = copy_context()
    context.run(name.set, "ann")
    async with running() as runner, anyio.create_task_group() as tasks:
        seen: list[str] = []

        async def note() -> None:
            seen.append(name.get())

        async def call(mine: str, *, waits: bool) -> None:
            seen.append(name.get())
            name.set(mine)
            if waits:
                await checkpoint()
            tasks.start_soon(note)
            await note()

        for waits in (False, True, False):
            await runner.ask(60, context, partial(call, "set", waits=waits))
            await wait_all_tasks_blocked()

        assert seen == ["ann", "set", "set"] * 3
        assert name.get() == "nobody"
        assert context[name] == "ann"


def test_calls_that_never_wait_share_no_context() -> None:
    """What a ``def`` of the application sets is seen by no other call of its connection."""
    name = ContextVar("name", default="nobody")
    context = copy_context()
    context.run(name.set, "ann")
    seen: list[str] = []

    def note() -> None:
        seen.append(name.get())
        name.set("set")

    for _ in range(3):
        call(context, note)

    assert seen == ["ann"] * 3
    assert name.get() == "nobody"
    assert context[name] == "ann"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("waits", [False, True])
async def test_workers_are_used_again(*, waits: bool) -> None:
    """A call now and then costs no new task."""
    async with running() as runner:
        workers: set[object] = set()

        async def note() -> None:
            workers.add(id(asyncio.current_task()))  # Not kept: see above.
            if waits:
                await runner.ask(60, Context(), asyncio.sleep, 0)
                with anyio.move_on_after(60):
                    await checkpoint()

        for _ in range(50):
            runner.submit(note)
            for _ in range(5):
                await checkpoint()

        assert 1 <= len(workers) <= 2


async def test_calls_that_do_not_wait_share_one_worker() -> None:
    """However many there are: one works, and one stands by."""
    async with running() as runner:
        before = tasks_now()
        seen: set[int] = set()

        async def count() -> None:
            seen.add(tasks_now() - before)

        for _ in range(3):
            for _ in range(100):
                runner.submit(count)
            await wait_all_tasks_blocked()

        assert max(seen) <= 2
        assert tasks_now() - before <= 2


async def test_one_worker_more_than_waiting_calls_is_awake() -> None:
    """A call that waits costs one task; when it ends, few are kept."""
    async with running() as runner:
        before = tasks_now()
        gate = Event()
        waiting = 0
        excess: set[int] = set()

        async def wait() -> None:
            nonlocal waiting
            waiting += 1
            excess.add(tasks_now() - before - waiting)
            await gate.wait()
            waiting -= 1

        for _ in range(100):
            runner.submit(wait)
        await wait_all_tasks_blocked()

        # The worker that is about to wait is counted as waiting: only the relief is on top.
        assert max(excess) <= 1
        assert tasks_now() - before <= 101
        gate.set()
        await wait_all_tasks_blocked()
        assert (waiting, runner.running) == (0, 0)
        assert tasks_now() - before <= 8


@pytest.mark.parametrize("seed", range(8))
async def test_every_call_runs_once_in_order_whatever_the_others_do(seed: int) -> None:
    """Calls that wait for turns, for each other, fail, or submit: all begin in order, all end."""
    chance = random.Random(seed)
    async with running() as runner:
        begun: list[int] = []
        ended: list[int] = []
        gates = [Event() for _ in range(5)]
        count = 0

        def make() -> Call:
            nonlocal count
            n = count
            count += 1
            turns, kind = chance.randrange(4), chance.choice(["", "", "gate", "submit", "fail"])

            async def call() -> None:
                begun.append(n)
                for _ in range(turns):
                    await checkpoint()
                match kind:
                    case "gate":
                        await gates[n % 5].wait()
                    case "submit":
                        runner.submit(make())
                    case "fail":
                        ended.append(n)
                        raise ValueError
                ended.append(n)

            return call

        for gate in gates:
            for _ in range(40):
                runner.submit(make())
                if chance.random() < 0.3:
                    await checkpoint()
            gate.set()
        await wait_all_tasks_blocked()

        assert begun == list(range(count))
        assert sorted(ended) == begun
        assert runner.running == 0


# --- what is prepared only for calls that wait ----------------------------------------------------


async def test_what_does_not_wait_is_done_when_it_was_begun() -> None:
    """There is nothing left to await; what it raises is raised."""

    async def add(a: int, b: int) -> int:
        if b == 0:
            raise LookupError("nothing to add")
        return a + b

    assert begin(add(1, 2)) == 3
    with pytest.raises(LookupError):
        begin(add(1, 0))


async def test_the_rest_of_what_waits_is_awaited_like_the_whole() -> None:
    """Results, errors, waits one after another and cancellation go through."""
    gate = Event()

    async def wait(error: Exception | None = None) -> str:
        for _ in range(3):
            await checkpoint()
        await gate.wait()
        if error is not None:
            raise error
        return "done"

    gate.set()
    rest = begin(wait())
    assert isinstance(rest, Rest)
    assert await rest == "done"
    rest = begin(wait(LookupError("gone")))
    assert isinstance(rest, Rest)
    with pytest.raises(LookupError):
        await rest

    gate = Event()
    rest = begin(wait())
    assert isinstance(rest, Rest)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await rest
    assert scope.cancelled_caught


class Iterated:
    """An awaitable whose iterator has neither ``send`` nor ``throw``, as those of granian."""

    def __init__(self, steps: Iterable[Any]) -> None:
        self._steps = iter(steps)

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> object:
        try:
            return next(self._steps)
        except StopIteration:
            raise StopIteration("done") from None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_rest_of_a_mere_iterator_is_awaited() -> None:
    """An awaitable need not be a generator; cancellation ends it where it waits."""
    rest: object = begin(Iterated([None, None, None]))
    assert isinstance(rest, Rest)
    assert await rest == "done"

    rest = begin(Iterated([None] * 1000))
    assert isinstance(rest, Rest)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await rest
    assert scope.cancelled_caught


async def test_a_time_limit_ends_what_takes_longer_and_nothing_else() -> None:
    """A timeout of the code's own is its own; a scope within may be entered before the limit."""

    async def sleep(seconds: float) -> str:
        with anyio.CancelScope():  # Entered in the first step, and left in another.
            await anyio.sleep(seconds)
        return "slept"

    async def time_out() -> None:
        await checkpoint()
        raise TimeoutError("its own")

    async with running() as runner:
        assert await runner.ask(60, Context(), sleep, 0) == "slept"
        with pytest.raises(Overdue):
            await runner.ask(0.01, Context(), sleep, 60)
        with pytest.raises(TimeoutError, match="its own"):
            await runner.ask(60, Context(), time_out)
        await checkpoint()  # Nothing is left of the cancellation.
