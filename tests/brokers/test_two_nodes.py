"""``examples/two_nodes.py``: two uvicorn workers, Redis, and a job, as real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from anyio import create_task_group, fail_after, sleep

from tests.brokers.servers import Server
from wsbus import CommandError
from wsbus.client import Client, connect

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_nodes.py"


@pytest.fixture
def anyio_backend() -> str:
    """The service is processes of its own: the loop of the clients does not matter."""
    return "asyncio"


@contextmanager
def service(broker: str, log: Path) -> Iterator[int]:
    """Run it; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--broker", broker, "--port", str(port)],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield port
    finally:
        process.terminate()
        try:
            assert process.wait(20) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def ready(port: int) -> tuple[int, object]:
    """Return the status and the answer of ``/ready``."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)


@asynccontextmanager
async def clients_of_both(port: int) -> AsyncIterator[dict[int, Client]]:
    """Connect until each worker serves one client; yield them by the worker's process."""
    found: dict[int, Client] = {}
    async with AsyncExitStack() as stack:
        with fail_after(40):
            while len(found) < 2:
                try:
                    client = await stack.enter_async_context(connect(f"ws://127.0.0.1:{port}/ws"))
                    facts = await client.command("worker")
                except Exception:  # noqa: BLE001  # a worker that starts yet
                    await sleep(0.1)
                    continue
                found.setdefault(facts["pid"], client)
        yield found


async def test_a_line_and_a_tick_reach_clients_of_both_workers(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """What one worker publishes, and what the job does, reach every client, once."""
    redis = start_server("redis7")
    with service(redis.url, tmp_path / "log") as port:
        async with clients_of_both(port) as clients, AsyncExitStack() as stack:
            (here, ours), (there, theirs) = clients.items()
            with fail_after(30):
                heard = [
                    await stack.enter_async_context(client.subscribe("chat.*"))
                    for client in (ours, theirs)
                ]
                ticks = [
                    await stack.enter_async_context(client.subscribe("job.*"))
                    for client in (ours, theirs)
                ]
                for client in (ours, theirs):
                    await client.command("say", {"text": "hello"})
                for events in heard:
                    lines = [(await anext(events)).data for _ in range(2)]
                    assert [line["worker"] for line in lines] == [here, there]
                first, second = [(await anext(events)).data["number"] for events in ticks]
                assert abs(first - second) <= 1
                assert (await ours.command("worker"))["nodes"] == 2
            assert ready(port) == (200, {"ready": True})


async def test_the_service_says_that_the_broker_is_gone_and_goes_on_when_it_is_back(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """A killed broker: 503 at ``/ready``, an error for who publishes, a gap for who subscribes."""
    redis = start_server("redis7")
    with service(redis.url, tmp_path / "log") as port:
        async with clients_of_both(port) as clients:
            (_, ours), (_, theirs) = clients.items()
            async with theirs.subscribe("chat.*") as events:
                redis.kill()
                with fail_after(20):
                    while ready(port)[0] != 503:  # noqa: ASYNC110  # of another process
                        await sleep(0.05)
                redis.start()

                async def keep_saying() -> None:
                    while True:
                        with suppress(CommandError):  # The worker has no link yet.
                            await ours.command("say", {"text": "again"})
                        await sleep(0.2)  # The other worker may have none yet, and hear nothing.

                with fail_after(20):
                    async with create_task_group() as tasks:
                        tasks.start_soon(keep_saying)
                        event = await anext(events)
                        tasks.cancel_scope.cancel()
                assert event.gap is not None
                assert event.gap.cause == "broker"


async def test_a_worker_that_is_killed_costs_its_clients_nothing(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """They come back to another worker, and get what was said meanwhile, in order and once."""
    redis = start_server("redis7")
    with service(redis.url, tmp_path / "log") as port:
        async with clients_of_both(port) as clients:
            (doomed, ours), (_, theirs) = clients.items()
            async with ours.subscribe("chat.*") as events:
                with fail_after(40):
                    for number in range(40):
                        if number == 10:
                            os.kill(doomed, signal.SIGKILL)
                        await theirs.command("say", {"text": str(number)})
                    lines = [await anext(events) for _ in range(40)]
                assert [line.data["text"] for line in lines] == [*map(str, range(40))]
                assert [line.gap for line in lines] == [None] * 40
