"""A server that does what it is told, to clients that are to bear it: a process of its own.

``python -m tests.web.puppet`` prints its address. The query of a connection's URL, ``?plan=…``, is
a list of steps: texts to send, and ``{"close": [code, reason]}``, ``{"abort": true}``, or
``{"mute": true}``: from then on it answers nothing. After the steps it answers as a server of
``wsbus.v1`` does; the command ``log`` with the messages it got, a list for each connection.

``{"limits": {"bytes": …, "names": …, "messages": …, "commands": …}}`` as first step makes it keep
these, as a server of ``wsbus.v1`` does, and tell them in ``connected``, unless it holds ``"secret":
true``. The command ``refused`` tells how many messages it refused as ``RATE_LIMITED``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from wsbus.core.limits import TokenBucket

log: Final[list[list[Any]]] = []


class Limits:
    """What one connection may send."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.limits = limits
        self.refused = 0
        rates = {"messages": limits.get("messages"), "commands": limits.get("commands")}
        self.buckets = {kind: TokenBucket(rate) for kind, rate in rates.items() if rate}

    @property
    def told(self) -> dict[str, Any]:
        """What ``connected`` tells of them."""
        names = {
            "bytes": "max_message_bytes",
            "names": "max_names",
            "messages": "messages_per_second",
            "commands": "commands_per_second",
        }
        if self.limits.get("secret"):
            return {}
        return {name: self.limits[key] for key, name in names.items() if key in self.limits}

    def refuse(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a message that is over a limit; None: it is within them."""
        now = time.monotonic()
        names = message.get("channels", ())
        kinds = ("messages", "commands") if message["type"] == "command" else ("messages",)
        costs = {"messages": max(1, -(-len(names) // 8)), "commands": 1}
        code = None
        for kind in kinds:
            bucket = self.buckets.get(kind)
            if bucket is not None and not all(bucket.take(now) for _ in range(costs[kind])):
                code = "RATE_LIMITED"
                self.refused += 1
        if len(names) > self.limits.get("names", 1000):
            code = "INVALID_MESSAGE"
        if code is None:
            return None
        error = {"code": code, "message": "over a limit"}
        return {"type": "error", "id": message.get("id"), "error": error}


async def play(connection: ServerConnection, step: Any) -> bool:
    """Take a step; tell whether to go on."""
    match step:
        case str():
            await connection.send(step)
        case {"bytes": text}:
            await connection.send(text.encode())
        case {"close": [code, reason]}:
            await connection.close(code, reason)
        case {"abort": True}:
            connection.transport.abort()
        case _:
            return False
    return True


def answer(message: Any) -> Any:
    """Return what a server says to this, without ``timestamp``."""
    match message:
        case {"type": "auth"}:
            return {"type": "auth_result", "success": True, "data": {"subject": "u1"}}
        case {"type": "subscribe" | "unsubscribe" as kind, "id": id_, "channels": channels}:
            return {"type": f"{kind}d", "id": id_, "data": {"channels": channels}}
        case {"type": "command", "id": id_, "action": "log"}:
            return {"type": "response", "id": id_, "success": True, "data": log}
        case {"type": "command", "id": id_, "action": "play", "params": steps}:
            return steps
        case {"type": "command", "id": id_, "action": "echo" | "refused", "params": params}:
            return {"type": "response", "id": id_, "success": True, "data": params}
        case {"type": "publish" | "get_status", "id": id_}:
            return {"type": "response", "id": id_, "success": True, "data": {}}
        case {"type": "ping"}:
            return {"type": "pong"}
    return None


async def attend(connection: ServerConnection) -> None:
    """Follow the plan, then answer."""
    got: list[Any] = []
    log.append(got)
    assert connection.request is not None
    query = parse_qs(urlsplit(connection.request.path).query)
    steps = json.loads(query.get("plan", ["[]"])[0])
    limits = Limits({})
    if steps and isinstance(steps[0], dict) and "limits" in steps[0]:
        limits = Limits(steps.pop(0)["limits"])
    most = limits.limits.get("bytes", 1 << 20)
    try:
        if not steps or steps[0] != "silent":
            data = {"connection_id": "c", "subject": "u1", **limits.told}
            hello = {"type": "connected", "data": data}
            await connection.send(json.dumps(hello))
        else:
            steps = steps[1:]
        mute = not all([await play(connection, step) for step in steps])
        async for frame in connection:
            message = json.loads(frame)
            got.append(message)
            if len(str(frame).encode()) > most:
                await connection.close(1009, f"over {most} bytes")
                break
            reply = limits.refuse(message) or answer(message)
            if message.get("action") == "refused":
                reply["data"] = limits.refused
            if isinstance(reply, list):
                mute = not all([await play(connection, step) for step in reply]) or mute
            elif reply is not None and not mute:
                await connection.send(json.dumps(reply))
    except ConnectionClosed:
        pass


async def main() -> None:
    """Serve until the standard input ends."""
    protocols = [Subprotocol("wsbus.v1")]
    async with serve(attend, "127.0.0.1", 0, subprotocols=protocols, close_timeout=1) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"url": f"ws://127.0.0.1:{port}/ws"}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
