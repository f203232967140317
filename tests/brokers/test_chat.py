"""``examples/chat.py``: two processes with one broker are one chat."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio import fail_after

from tests.brokers.servers import Server
from wsbus.client import connect

EXAMPLE = Path(__file__).parents[2] / "examples" / "chat.py"


@pytest.fixture
def anyio_backend() -> str:
    """The chat is processes of its own: the loop of the clients does not matter."""
    return "asyncio"


@contextmanager
def chat(broker: str) -> Iterator[str]:
    """Run a process of it; yield the URL of its endpoint."""
    command = [sys.executable, str(EXAMPLE), "--port", "0", "--broker", broker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().replace("http", "ws") + "/ws"
        finally:
            process.kill()


TUTORIAL = EXAMPLE.parents[1] / "docs" / "tutorial" / "chat.md"


@contextmanager
def worker(broker: str, folder: Path) -> Iterator[str]:
    """Run the tutorial's program as its page says; yield the URL of its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    options = ["chat:app", "--ws", "wsbus.adapters.uvicorn:WebSocketProtocol"]
    command = [sys.executable, "-m", "uvicorn", *options, "--port", str(port)]
    environment = os.environ | {"BROKER": broker}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "running on" in line:
                    break
            yield f"ws://127.0.0.1:{port}/ws"
        finally:
            process.kill()


async def test_two_workers_of_the_tutorial_are_one_chat(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Both have the messages and the people of the other."""
    redis = start_server("redis7")
    blocks = re.findall(
        r"^```python\n(.*?)^```", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "chat.py").write_text("\n".join(blocks), encoding="utf-8")
    with worker(redis.url, tmp_path) as one, worker(redis.url, tmp_path) as two, fail_after(40):
        async with (
            connect(one, token="Ada") as ada,
            connect(two, token="Bob") as bob,
            ada.subscribe("chat.lobby"),
            bob.subscribe("chat.lobby") as heard,
            ada.watch_presence("chat.lobby") as watch,
        ):
            await ada.command("say", {"room": "lobby", "text": "hello"})
            assert (await anext(heard)).data == {"name": "Ada", "text": "hello"}
            assert len((await ada.history("chat.lobby")).events) == 1
            names: set[str] = set()
            while names != {"Ada", "Bob"}:
                names |= {str(member.subject) for member in (await anext(watch)).joined}


async def test_two_processes_share_rooms_messages_and_people(
    start_server: Callable[..., Server],
) -> None:
    """A message reaches both and is kept once; both know the people of the other."""
    redis = start_server("redis7")
    with chat(redis.url) as one, chat(redis.url) as two, fail_after(40):
        async with (
            connect(one, token="Ada") as ada,
            connect(two, token="Bob") as bob,
            ada.subscribe("here.lobby"),
            bob.subscribe("here.lobby"),
            bob.subscribe("chat.lobby") as heard,
        ):
            for _ in range(2):
                await ada.command("say", {"room": "lobby", "text": "hello", "key": "1"})
            assert (await anext(heard)).data == {"name": "Ada", "text": "hello"}
            page = await bob.history("chat.lobby", limit=20)
            assert [event.data["text"] for event in page.events] == ["hello"]
            async with bob.watch_presence("here.lobby") as watch:
                names: set[str] = set()
                while names != {"Ada", "Bob"}:
                    change = await anext(watch)
                    names |= {str(member.subject) for member in change.joined}
