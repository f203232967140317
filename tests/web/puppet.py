"""A server that does what it is told, to clients that are to bear it: a process of its own.

``python -m tests.web.puppet`` prints its address. The query of a connection's URL, ``?plan=…``, is
a list of steps: texts to send, and ``{"close": [code, reason]}``, ``{"abort": true}``, or
``{"mute": true}``: from then on it answers nothing. After the steps it answers as a server of
``wsbus.v1`` does; the command ``log`` with the messages it got, a list for each connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

log: Final[list[list[Any]]] = []


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
        case {"type": "command", "id": id_, "action": "echo", "params": params}:
            return {"type": "response", "id": id_, "success": True, "data": params}
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
    try:
        if not steps or steps[0] != "silent":
            hello = {"type": "connected", "data": {"connection_id": "c", "subject": "u1"}}
            await connection.send(json.dumps(hello))
        else:
            steps = steps[1:]
        mute = not all([await play(connection, step) for step in steps])
        async for frame in connection:
            message = json.loads(frame)
            got.append(message)
            reply = answer(message)
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
