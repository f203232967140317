"""The load tells what servers do wrong; these do it."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from wsbus.bench.load import (
    BenchError,
    FanoutResult,
    FixedRate,
    Load,
    Script,
    Window,
    cores,
    cpu_seconds,
    fanout,
    listener_pid,
    need_files,
    pinned,
    resident_bytes,
    round_trips,
    running,
)
from wsbus.bench.processes import Server
from wsbus.bench.target import running_at
from wsbus.bench.workloads import add_ratios, median_of

NUMBERED: Final = Script(
    path="/",
    hello=[(b"hello", b"welcome")],
    publish=b'publish {"n":"0000"}',
    marker=b'"n":"',
    digits=4,
)
PLAIN: Final = Script(path="/", publish=b"publish me", marker=b"<m>")
Deliver = Callable[[list[ServerConnection], str, int], None]


def to_all(subscribers: list[ServerConnection], message: str, number: int) -> None:
    """Deliver as a server should."""
    for each in list(subscribers):
        each.send(message)


@contextmanager
def delivering(deliver: Deliver, subprotocol: str | None = None) -> Iterator[int]:
    """Serve in a thread what is published, as ``deliver`` does it; give the port."""
    subscribers: list[ServerConnection] = []
    published = iter(range(1_000_000))

    def converse(connection: ServerConnection) -> None:
        try:
            for message in connection:
                text = str(message)
                if text == "hello":
                    subscribers.append(connection)
                    connection.send("welcome")
                elif text.startswith("publish "):
                    deliver(subscribers, text.removeprefix("publish "), next(published))
        except ConnectionClosed:
            pass
        finally:
            if connection in subscribers:
                subscribers.remove(connection)

    offered = [subprotocol] if subprotocol else None
    options = {"subprotocols": offered, "compression": None, "ping_interval": None}
    with serve(converse, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def measured(
    port: int, script: Script = NUMBERED, *, publications: int = 40, outstanding: int = 4
) -> FanoutResult:
    """Publish to three subscribers, and wait for what is lost no longer than needed."""
    return fanout(
        port,
        None,
        script,
        subscribers=3,
        outstanding=outstanding,
        publications=publications,
        warm_up=0,
        patience=0.5,
    )


# --- what is counted ----------------------------------------------------------------------------


def test_a_server_without_fault_has_none() -> None:
    """Each publication is a delivery to each subscriber; without a process no CPU time is told."""
    with delivering(to_all) as port:
        result = measured(port)

    assert (result.deliveries, result.lost, result.reordered, result.closed) == (120, 0, 0, 0)
    assert result.rate == pytest.approx(result.deliveries / result.seconds)
    assert 0 < result.p50_ms <= result.p99_ms <= result.p999_ms
    assert (result.cpu_us, result.cpu_share, result.rss_per_connection) == (None, None, None)


def test_progress_is_told_of_every_publication() -> None:
    """The steps told add up to the publications."""
    steps: list[int] = []
    with delivering(to_all) as port, Load(port, None, NUMBERED) as load:
        load.join(2, progress=steps.append)
        assert steps == [1, 1]
        steps.clear()
        load.run(Window(4), 50, progress=steps.append)

    assert sum(steps) == 50


def test_messages_are_counted_however_they_are_cut() -> None:
    """A marker that comes a byte at a time counts once, and so does its number."""

    def by_bytes(subscribers: list[ServerConnection], message: str, number: int) -> None:
        wire = bytes((0x81, len(message))) + message.encode()
        for each in subscribers:
            for byte in wire:
                each.socket.send(bytes((byte,)))

    with delivering(by_bytes) as port:
        result = measured(port, publications=20)

    assert (result.deliveries, result.lost, result.reordered) == (60, 0, 0)


def test_messages_of_one_frame_count_each() -> None:
    """Five messages that are joined in a frame are five deliveries."""
    waiting: list[str] = []

    def joined(subscribers: list[ServerConnection], message: str, number: int) -> None:
        waiting.append(message)
        if len(waiting) == 5:
            to_all(subscribers, "\n".join(waiting), number)
            waiting.clear()

    with delivering(joined) as port:
        result = measured(port, outstanding=5)

    assert (result.deliveries, result.lost, result.reordered) == (120, 0, 0)


def test_what_is_lost_is_counted() -> None:
    """A message that one subscriber never gets is one lost, and ends the wait."""

    def forgetful(subscribers: list[ServerConnection], message: str, number: int) -> None:
        to_all(subscribers[1:] if number == 7 else subscribers, message, number)

    with delivering(forgetful) as port:
        result = measured(port)

    assert (result.lost, result.reordered, result.closed) == (1, 0, 0)
    assert result.deliveries == 119


@pytest.mark.parametrize("is_joined", [False, True])
def test_what_comes_late_is_counted(is_joined: bool) -> None:
    """A message that one subscriber gets after the next one is one reordered."""
    held: list[str] = []

    def swapping(subscribers: list[ServerConnection], message: str, number: int) -> None:
        if number == 7:
            held.append(message)
            to_all(subscribers[1:], message, number)
        elif number == 8 and is_joined:
            subscribers[0].send(f"{message}\n{held.pop()}")
            to_all(subscribers[1:], message, number)
        else:
            to_all(subscribers, message, number)
            if number == 8:
                subscribers[0].send(held.pop())

    with delivering(swapping) as port:
        result = measured(port)

    assert (result.lost, result.reordered, result.deliveries) == (0, 1, 120)


def test_what_comes_twice_is_counted() -> None:
    """A repeated message is one reordered and makes up for none that is lost."""

    def stuttering(subscribers: list[ServerConnection], message: str, number: int) -> None:
        to_all(subscribers, message, number)
        if number == 7:
            subscribers[0].send(message)

    with delivering(stuttering) as port:
        result = measured(port)

    assert result.reordered == 1


def test_whom_the_server_closes_nobody_waits_for() -> None:
    """What a closed connection did not get is lost; the run goes on without it."""

    def closing(subscribers: list[ServerConnection], message: str, number: int) -> None:
        if number == 10:
            subscribers.pop(0).socket.shutdown(2)
        to_all(subscribers, message, number)

    with delivering(closing) as port:
        result = measured(port)

    assert (result.closed, result.lost, result.deliveries) == (1, 30, 90)


def test_without_a_publisher_there_is_no_measurement() -> None:
    """A server that closes the publisher's connection is an error, not a result."""
    with delivering(to_all) as port, pytest.raises(BenchError, match="closed the connection"):
        measured(port, Script(path="/", publish=b"\xff\xfe", marker=b"m"))


def test_a_call_is_answered_on_the_same_connection() -> None:
    """Round trips are counted on the connection that calls."""

    def answer(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(f"<m>{message!s}")

    with serve(answer, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        result = round_trips(port, None, PLAIN, outstanding=3, calls=30, warm_up=5)
        server.shutdown()
        thread.join()

    assert (result.deliveries, result.lost, result.reordered) == (30, 0, None)


def test_a_pace_is_kept_from_the_moment_that_was_due() -> None:
    """A server that stands still is told by the latency of all that was due meanwhile."""
    gate = threading.Event()

    def standing(subscribers: list[ServerConnection], message: str, number: int) -> None:
        if number == 10:
            gate.wait(0.5)
        to_all(subscribers, message, number)

    with delivering(standing) as port, Load(port, None, NUMBERED) as load:
        load.join(2)
        result = load.run(FixedRate(100), 70)

    assert result.lost == 0
    assert result.seconds >= 0.69
    assert result.p50_ms > 100, "some fifty were due while it stood still"


# --- schedules ----------------------------------------------------------------------------------


@given(st.integers(1, 1000), st.integers(0, 10_000), st.floats(0, 1e4))
def test_a_window_is_always_full(outstanding: int, done: int, elapsed: float) -> None:
    """As many are due as arrived, and the window more, whatever the clock says."""
    window = Window(outstanding)

    assert window.due(done, elapsed) == done + outstanding
    assert window.wait(done, elapsed) == math.inf


@given(st.floats(0.5, 1e4), st.integers(0, 100_000))
def test_a_pace_goes_by_the_clock_alone(rate: float, sent: int) -> None:
    """Waited for as long as told, the next one is due, however few have arrived."""
    pace = FixedRate(rate)
    began = pace.moment(sent, 0.0)

    assert pace.wait(sent, began) == 0
    assert pace.due(0, began + 1e-6) >= sent + 1
    assert pace.wait(sent + 1, began) == pytest.approx(1 / rate, rel=1e-3)


# --- handshakes ---------------------------------------------------------------------------------


def test_a_subprotocol_must_be_chosen() -> None:
    """A server that does not speak what was asked for is not measured."""
    script = Script(path="/", subprotocol="mine", publish=b"p", marker=b"m")
    with delivering(to_all, "other") as port, pytest.raises(BenchError, match=r"mine|refused"):
        measured(port, script)


def test_an_answer_that_does_not_come_is_told() -> None:
    """When the server closes instead of answering, the error says what was waited for."""

    def goodbye(connection: ServerConnection) -> None:
        connection.socket.shutdown(2)

    script = Script(path="/", hello=[(None, b"welcome")], publish=b"p", marker=b"m")
    with serve(goodbye, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(BenchError, match="no welcome"):
            measured(server.socket.getsockname()[1], script)
        server.shutdown()
        thread.join()


def test_a_publication_must_hold_its_number() -> None:
    """Numbers are asked for only where there is a place for them."""
    script = Script(path="/", publish=b"publish", marker=b"m", digits=4)
    with delivering(to_all) as port, pytest.raises(BenchError, match="4 digits"):
        measured(port, script)


# --- processes ----------------------------------------------------------------------------------


def test_a_process_is_known_by_its_time_and_memory() -> None:
    """CPU time grows while there is work, and a process that is gone is an error."""
    before = cpu_seconds(os.getpid())
    assert sum(range(300_000)) > 0
    assert cpu_seconds(os.getpid()) > before
    assert resident_bytes(os.getpid()) > 1 << 20

    for look in (cpu_seconds, resident_bytes):
        with pytest.raises(BenchError, match="cannot be read"):
            look(2**22 + 1)


def test_the_process_that_listens_is_found() -> None:
    """The process of a port is who listens there; nobody is nobody."""
    with delivering(to_all) as port:
        assert listener_pid(port) == os.getpid()
        assert running_at(f"ws://127.0.0.1:{port}/x?y=z").server.pid == os.getpid()
        assert running_at(f"ws://192.0.2.1:{port}").server.pid is None
    assert listener_pid(port) is None


def test_a_server_is_run_on_its_core_and_ended() -> None:
    """The line it prints says where it is; afterwards it is gone, and our own cores are ours."""
    program = "import os,signal;print(f'[::1]:{10+len(os.sched_getaffinity(0))}',flush=True)"
    ours = os.sched_getaffinity(0)
    with running([sys.executable, "-c", f"{program};signal.pause()"], core=cores()[0]) as server:
        assert (server.host, server.port) == ("::1", 11)
        with pinned(cores()[1]):
            assert os.sched_getaffinity(0) == {cores()[1]}
    assert os.sched_getaffinity(0) == ours
    assert server.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([sys.executable, "-c", "import sys; sys.exit(3)"], "ended with status 3"),
        ([sys.executable, "-c", "print('hello')"], "printed 'hello', no host:port"),
        (["/nowhere/server"], "cannot be started"),
    ],
)
def test_what_is_no_server_is_told(command: list[str], says: str) -> None:
    """A command that does not say where it listens is an error, in a sentence."""
    with pytest.raises(BenchError, match=says), running(command):
        pass


def test_a_port_alone_is_enough() -> None:
    """A server that prints its port alone is on the loopback address."""
    program = "import signal;print(7,flush=True);signal.pause()"
    with running([sys.executable, "-c", program]) as server:
        assert isinstance(server, Server)
        assert server[:2] == ("127.0.0.1", 7)


def test_more_files_than_there_can_be_are_refused() -> None:
    """Too many connections are told before the first one is made."""
    with pytest.raises(BenchError, match="open files"):
        need_files(10**9)


# --- figures ------------------------------------------------------------------------------------


def test_a_median_hides_no_fault() -> None:
    """Of figures the median is told, of what must not happen the worst."""
    with delivering(to_all) as port:
        rounds = [measured(port, publications=10) for _ in range(3)]
    worse = msgspec.structs.replace(rounds[0], lost=2, deliveries=28)
    result = median_of([worse, *rounds[1:]])

    assert (result.lost, result.deliveries, result.cpu_us) == (2, 28, None)
    assert result.p99_ms == sorted(each.p99_ms for each in [worse, *rounds[1:]])[1]


def test_a_ratio_is_over_the_row_before() -> None:
    """What is not known has no ratio."""
    rows: list[dict[str, float | None]] = [{"cpu_us": 2.0}, {"cpu_us": 3.0}]
    unknown: list[dict[str, float | None]] = [{"cpu_us": None}, {"cpu_us": None}]
    add_ratios(rows)
    add_ratios(unknown)

    assert [row["ratio"] for row in rows] == [1.0, 1.5]
    assert unknown[1]["ratio"] is None
