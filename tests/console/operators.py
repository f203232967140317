"""Operators without sockets, and the bus that they look at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from anyio import create_task_group

from tests.server.clients import Client
from wsbus import Handshake
from wsbus.console import Console
from wsbus.endpoint import Admission
from wsbus.testing import DirectMemoryTransport

TOKEN: Final = "let me have a look"

SignIn: TypeAlias = Callable[..., Awaitable["Operator"]]


class Operator(Client):
    """A client of a console."""

    async def watch(self, **wanted: Any) -> dict[str, Any]:
        """Say what to look at; return the answer."""
        return await self.command("console.watch", **wanted)

    async def hear_of(self, event: str) -> dict[str, Any]:
        """Return the next sample, or the next batch of the tail."""
        while True:
            message = await self.hear("event")
            assert message["channel"] == "wsbus.console"
            if message["event"] == event:
                data: dict[str, Any] = message["data"]
                return data

    async def see(self, **wanted: Any) -> dict[str, Any]:
        """Look at something; return the first sample of it."""
        answer = await self.watch(**wanted)
        assert answer["success"], answer
        while True:
            sample = await self.hear_of("sample")
            is_it = sample["view"] == wanted.get("view", "overview")
            if is_it and sample.get("find", "") == wanted.get("find", "").lower():
                return sample


@asynccontextmanager
async def operators(console: Console) -> AsyncIterator[SignIn]:
    """Give ``sign_in(token)``; None connects and shows no token. They leave with the block."""
    here: list[Operator] = []
    async with create_task_group() as tasks:

        async def run(operator: Operator, admission: Admission) -> None:
            await console.endpoint.run(operator.transport, admission)

        async def sign_in(token: str | None = TOKEN, **handshake: Any) -> Operator:
            admission = await console.endpoint.admit(Handshake("/console/ws", **handshake))
            assert isinstance(admission, Admission), admission
            operator = Operator(console.endpoint, DirectMemoryTransport())
            here.append(operator)
            tasks.start_soon(run, operator, admission)
            operator.id = (await operator.hear("connected"))["data"]["connection_id"]
            if token is not None:
                operator.say("auth", token=token)
                assert (await operator.hear("auth_result"))["success"]
            return operator

        try:
            yield sign_in
        finally:
            for operator in here:
                operator.peer.close()
