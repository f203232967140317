"""Whatever the application does, or happens to a task, ends no more than it must."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from contextvars import Context
from typing import Any

import anyio
import pytest
from anyio import Event, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from tests.server.clients import UNLIMITED, connecting, judge, quiet
from wsbus import Bus, Endpoint, Grants, Handshake, Identity, Limits
from wsbus.bus import host_of
from wsbus.core.messages import Command
from wsbus.endpoint import Refusal
from wsbus.server.host import BusHost


class Panic(BaseException):
    """What a library in another language may raise; no ``Exception``."""


RAISED = [
    Panic,
    GeneratorExit,
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    StopIteration,
    StopAsyncIteration,
    RecursionError,
    MemoryError,
    lambda: BaseExceptionGroup("two", [Panic(), ValueError()]),
]


def door(bus: Bus, **options: Any) -> Endpoint:
    """Return an endpoint where everybody is who they say, without rate limits."""
    defaults: dict[str, Any] = {
        "authenticator": judge,
        "query_token": "token",
        "limits": UNLIMITED,
    }
    return bus.endpoint(**defaults | options)


def health(bus: Bus) -> bool:
    """Return ``bus.healthy``, which changes between two looks."""
    return bus.healthy


@pytest.mark.parametrize("make", RAISED)
@pytest.mark.parametrize("where", ["def", "async", "late", "thread", "nursery"])
async def test_whatever_a_command_raises_costs_the_command(where: str, make: Any) -> None:
    """It is answered, and its client, the others, new ones and the bus go on."""
    if where == "nursery" and make in {SystemExit, KeyboardInterrupt}:
        pytest.skip("asyncio itself ends the loop for a task of the application's own")
    bus = Bus()

    @bus.command("def")
    def plain() -> None:
        raise make()

    @bus.command("async")
    async def at_once() -> None:
        raise make()

    @bus.command("late")
    async def late() -> None:
        await checkpoint()
        raise make()

    @bus.command("thread", threaded=True)
    def thread() -> None:
        raise make()

    @bus.command("nursery")
    async def nursery() -> None:
        async def fail() -> None:
            raise make()

        async with create_task_group() as tasks:
            tasks.start_soon(fail)
            await checkpoint()

    async with bus, connecting(door(bus)) as connect:
        bystander, client = await connect("ben"), await connect("ann")
        code = await client.is_refused(where)

        swallows = where == "nursery" and make is asyncio.CancelledError  # As asyncio has it.
        assert code == (None if swallows and code is None else "INTERNAL_ERROR")
        assert await client.events() == await bystander.events() == []
        assert await (await connect("cem")).events() == []
        assert bus.healthy


@pytest.mark.parametrize("make", RAISED)
@pytest.mark.parametrize("is_async", [False, True])
async def test_whatever_a_judge_raises_is_a_no(make: Any, *, is_async: bool) -> None:
    """Of ``authorize`` the client gets a no, of an authenticator a close; hooks cost nothing."""

    def fail(*_: object) -> Any:
        raise make()

    async def fail_late(*_: object) -> Any:
        await checkpoint()
        raise make()

    fails: Any = fail_late if is_async else fail
    bus = Bus(authorize=fails)
    bus.on_connect(fails)
    bus.on_disconnect(fails)
    async with bus:
        async with connecting(door(bus)) as connect:
            client = await connect("ann")
            client.say("subscribe", channels=["a"])
            answer = await client.hear("subscribed")
            assert answer["data"]["channels"] == []
            assert await client.events() == []
        broken = door(bus, authenticator=fails)
        refusal = await broken.admit(Handshake("/ws", "token=x"))
        assert isinstance(refusal, Refusal)
        assert refusal.status == 503
        named = bus.endpoint(name_connection=fail)
        refusal = await named.admit(Handshake("/ws"))
        assert isinstance(refusal, Refusal)
        assert refusal.status == 503
        await quiet()

        assert bus.healthy
        assert bus.statistics().connections == 0


@pytest.mark.parametrize("make", RAISED)
async def test_whatever_an_authenticator_raises_in_a_message_closes(make: Any) -> None:
    """Nothing is the client's fault: 1012, and the others live."""

    async def fails(token: str | None, handshake: Handshake) -> Identity | None:
        if token == "x":
            raise make()
        return judge(token, handshake)

    async with Bus() as bus, connecting(door(bus, authenticator=fails)) as connect:
        bystander, client = await connect("ben"), await connect()
        client.say("auth", token="x")

        assert (await client.peer.wait_closed()).code == 1012
        assert await bystander.events() == []


JUNK: list[Any] = [
    True, False, 0, "", "ada", {}, {"sub": "x"}, [], object(), b"x", Grants(), Identity, 1.5,
    (x for x in [1]), Exception("x"), NotImplemented,
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_authenticator_returns_identities(
    junk: Any, caplog: pytest.LogCaptureFixture, *, is_async: bool
) -> None:
    """Anything else is its fault: 503 or 1012, and an ERROR that says what it must return."""

    def give(token: str | None, handshake: Handshake) -> Any:
        return junk if token == "x" else None

    async def give_late(token: str | None, handshake: Handshake) -> Any:
        await checkpoint()
        return junk if token == "x" else None

    judges: Any = give_late if is_async else give
    async with Bus() as bus, connecting(door(bus, authenticator=judges)) as connect:
        refusal = await door(bus, authenticator=judges).admit(Handshake("/", "token=x"))
        assert isinstance(refusal, Refusal)
        assert refusal.status == 503
        client = await connect()
        client.say("auth", token="x")
        assert (await client.peer.wait_closed()).code == 1012

    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 2
    for record in told:
        assert judges.__name__ in record.getMessage()
        assert "it must return an Identity, or None" in record.getMessage()


@pytest.mark.parametrize("junk", ["yes", 1, None, [], object()])
async def test_authorize_returns_a_bool(junk: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Anything else is a no, and logged; it may be a ``def``."""
    answers: list[Any] = [junk, True]
    bus = Bus(authorize=lambda identity, action, name: answers[name == "good"])
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("subscribe", channels=["bad", "good"])

        assert (await client.hear("subscribed"))["data"]["channels"] == ["good"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# --- cancelling tasks -----------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_command_may_cancel_the_task_of_another() -> None:
    """That other is answered; nothing else notices, whether it still ran or not."""
    bus = Bus()
    jobs: list[asyncio.Task[Any]] = []
    gate = Event()

    def note() -> None:
        task = asyncio.current_task()
        assert task is not None
        jobs.append(task)

    @bus.command("start")
    async def start() -> None:
        note()
        await Event().wait()

    @bus.command("brief")
    async def brief() -> None:
        note()

    @bus.command("wait")
    async def wait() -> str:
        await gate.wait()
        return "unharmed"

    @bus.command("stop")
    def stop() -> None:
        for job in jobs:
            job.cancel()

    async with bus, connecting(door(bus)) as connect:
        bystander, client = await connect("ben"), await connect("ann")
        await client.command("brief")
        for _ in range(4):
            bystander.say("command", id="w", action="wait")
        client.say("command", id="s", action="start")
        await quiet()
        client.say("command", id="t", action="stop")
        answers = [await client.hear("response") for _ in range(2)]
        gate.set()

        assert {a["id"]: a["success"] for a in answers} == {"s": False, "t": True}
        for _ in range(4):
            assert (await bystander.hear("response"))["data"] == "unharmed"
        assert bus.healthy


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_judges_may_be_cancelled() -> None:
    """An authenticator and ``authorize`` whose tasks are cancelled leave no client waiting."""
    tasks: list[asyncio.Task[Any]] = []

    async def hang() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await Event().wait()

    async def authorize(identity: Identity, action: str, name: str) -> bool:
        await hang()
        return True

    async def authenticator(token: str | None, handshake: Handshake) -> Identity | None:
        if token == "hangs":
            await hang()
        return judge(token, handshake)

    bus = Bus(authorize=authorize)
    async with bus, connecting(door(bus, authenticator=authenticator)) as connect:
        client, stranger = await connect("ann"), await connect()
        client.say("subscribe", channels=["a"])
        stranger.say("auth", token="hangs")
        await quiet()
        for task in tasks:
            task.cancel()

        assert (await client.hear("subscribed"))["data"]["channels"] == []
        assert (await stranger.peer.wait_closed()).code == 1012
        assert bus.healthy


# --- threads --------------------------------------------------------------------------------------


async def test_threads_that_never_end_hold_up_no_other_command() -> None:
    """Each threaded command has threads of its own; one that blocks starves itself only."""
    bus = Bus()
    may_end = threading.Event()

    @bus.command("blocks", threaded=True, timeout=0.5)
    def blocks() -> None:
        may_end.wait(60)

    @bus.command("works", threaded=True)
    def works() -> str:
        return "done"

    limits = Limits(messages_per_second=None, commands_per_second=None, max_running_commands=1000)
    try:
        async with bus, connecting(door(bus, limits=limits)) as connect:
            greedy, client = await connect("ann"), await connect("ben")
            codes = []
            for _ in range(3):
                for _ in range(40):
                    greedy.say("command", id="1", action="blocks")
                assert (await client.command("works"))["data"] == "done"
                codes.append({(await greedy.hear("response"))["error"]["code"] for _ in range(40)})
            assert codes == [{"TIMEOUT"}, {"RATE_LIMITED"}, {"RATE_LIMITED"}]
            assert (await client.command("works"))["data"] == "done"
            may_end.set()
    finally:
        may_end.set()


async def test_a_command_that_holds_the_loop_is_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One WARNING with its name and the time above 100 ms; another one when it doubles."""
    bus = Bus()
    takes, now = 0.0, 0.0

    @bus.command("slow")
    def slow() -> None:
        nonlocal now
        now += takes

    monkeypatch.setattr("wsbus.server.commands.monotonic", lambda: now)
    async with bus:
        for takes in (0.05, 0.099, 0.15, 0.2, 0.29, 0.31):  # noqa: B007  # the command reads it
            host_of(bus).services.commands.invoke(Command("slow", b"{}", None), None, 1, Context())

    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(";")[0] for line in told] == [
        "the command slow held the event loop for 150 ms",
        "the command slow held the event loop for 310 ms",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


# --- the bus itself -------------------------------------------------------------------------------


async def test_a_bus_that_fails_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CRITICAL, not healthy, connections are cut; and it can be started again."""
    bus = Bus()
    may_fail = Event()

    async def run(self: object) -> None:
        await may_fail.wait()
        raise LookupError("of the flusher")

    assert not health(bus)
    with monkeypatch.context() as patch:
        patch.setattr("wsbus.server.flusher.Flusher.run", run)
        async with bus, connecting(door(bus)) as connect:
            client = await connect("ann")
            assert health(bus)
            may_fail.set()
            await client.peer.wait_closed()
            await quiet()

            assert (health(bus), bus.is_running) == (False, False)
            refusal = await door(bus).admit(Handshake("/", "token=x"))
            assert isinstance(refusal, Refusal)
    assert [r.levelname for r in caplog.records if r.name == "wsbus.bus"] == ["CRITICAL"]
    async with bus:
        assert bus.healthy


async def test_a_bus_that_cannot_start_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps it from starting is raised where it is started, and nothing hangs."""
    bus = Bus()

    def fail(self: object, tasks: object) -> None:
        raise LookupError("nothing to run")

    with monkeypatch.context() as patch:
        patch.setattr(BusHost, "_make_services", fail)
        with pytest.raises(LookupError):
            await bus.__aenter__()
    async with bus:
        assert bus.healthy


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("times", [1, 2])
async def test_a_bus_that_is_cancelled_while_it_starts_leaves_nothing(
    turns: int, times: int
) -> None:
    """Whichever turn it is cancelled at, no task is left, and it can be started again."""
    bus = Bus()
    before = asyncio.all_tasks()

    async def enter() -> None:
        async with bus:
            await Event().wait()

    task = asyncio.ensure_future(enter())
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)
    await quiet()

    assert asyncio.all_tasks() == before
    async with bus:
        assert bus.healthy


@pytest.mark.parametrize("turns", range(4))
async def test_a_scope_may_end_a_start(turns: int) -> None:
    """The same for cancel scopes, on asyncio and trio."""
    bus = Bus()
    with anyio.CancelScope() as scope:
        async with create_task_group() as tasks:

            async def cancel() -> None:
                for _ in range(turns):
                    await checkpoint()
                scope.cancel()

            tasks.start_soon(cancel)
            async with bus:
                await Event().wait()
    assert not bus.is_running
    async with bus:
        assert bus.healthy


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("turns", range(8))
async def test_a_stop_that_is_cancelled_stops(turns: int) -> None:
    """Whoever stops a bus and is cancelled, even twice, leaves it stopped."""
    bus = Bus()
    async with connecting(door(bus)) as connect:
        await bus.__aenter__()
        client = await connect("ann")
        task = asyncio.ensure_future(bus.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if turns:  # Otherwise it had not begun.
            assert not bus.is_running
        await bus.aclose()
        assert (await client.peer.wait_closed()).code == 1001
    async with bus:
        assert bus.healthy


async def test_a_call_that_minds_no_cancellation_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop is bounded, and says what goes on."""
    monkeypatch.setattr("wsbus.server.lifecycle._GRACE_SECONDS", 0.1)
    monkeypatch.setattr("wsbus.server.lifecycle.STUCK_SECONDS", 0.1)
    bus = Bus()
    may_end = Event()

    @bus.command("stubborn")
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await may_end.wait()

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("command", id="1", action="stubborn")
        await quiet()
        await bus.aclose(deadline=0.1)

        assert not bus.is_running
        may_end.set()
        await wait_all_tasks_blocked()
    assert "go on although they were cancelled" in caplog.text


# --- signals --------------------------------------------------------------------------------------

PROGRAM = """
import sys, anyio
from wsbus import Bus, Handshake
from wsbus.testing import DirectMemoryTransport

bus = Bus()

def busy():
    print("busy", flush=True)
    while True:
        pass

@bus.command("def")
def plain(): busy()

@bus.command("async")
async def at_once(): busy()

@bus.command("late")
async def late():
    await anyio.sleep(0)
    busy()

async def main():
    endpoint = bus.default_endpoint
    async with bus, anyio.create_task_group() as tasks:
        transport = DirectMemoryTransport()
        tasks.start_soon(endpoint.run, transport, await endpoint.admit(Handshake("/")))
        transport.peer.send('{"type":"command","id":"1","action":"%s"}' % sys.argv[2])
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("where", ["def", "async", "late"])
def test_an_interrupt_of_the_process_ends_it(backend: str, where: str) -> None:
    """Ctrl-C while a command runs for ever is no error of the command; asyncio wants it twice."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, backend, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "busy\n"
        while child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        _, errors = child.communicate()
    finally:
        child.kill()
    assert child.returncode != 0
    assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_command_that_cancels_its_readers_task_costs_its_call() -> None:
    """A ``def`` command runs in the task that reads: the connection outlives it."""
    bus = Bus()

    @bus.command("cancels")
    def cancels() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        for _ in range(3):
            assert (await client.command("cancels"))["data"] == "done"
            await client.subscribe("a")
        assert client.connection.close_code is None
