"""The kind of a Redis server, and the rights that the user of a bus lacks there.

``ACL DRYRUN`` would be a right of its own. So the commands are queued in a ``MULTI`` that never
runs: the server refuses each of them at once if the user may not run it, on these keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from ..broker import BrokerReport
from ..core.errors import BrokerUnavailable
from ._redis_dial import (
    HISTORY_RIGHTS,
    RedisPlace,
    bounded,
    find,
    open_stream,
    reason_of,
)
from ._redis_stream import ErrorReply, Words

__all__ = ["CALLS", "inspect"]

_HELLO: Final = (b"HELLO",)
_MULTI: Final = (b"MULTI",)
_command: Final = re.compile(r"'([\w|]+)' (?:command|subcommand)").search
_KEY: Final = "<key>"
_CHANNEL: Final = "<channel>"

CALLS: Final[Mapping[str, str]] = {
    "publish": f"PUBLISH {_CHANNEL} 0",
    "del": f"DEL {_KEY}",
    "client|setname": "CLIENT SETNAME wsbus",
    "evalsha": f"EVALSHA 0 1 {_KEY}",
    "script|load": "SCRIPT LOAD 0",
    "exists": f"EXISTS {_KEY}",
    "get": f"GET {_KEY}",
    "set": f"SET {_KEY} 0",
    "hmget": f"HMGET {_KEY} 0",
    "hset": f"HSET {_KEY} 0 0",
    "time": "TIME",
    "pexpire": f"PEXPIRE {_KEY} 1",
    "rpush": f"RPUSH {_KEY} 0",
    "lpop": f"LPOP {_KEY}",
    "llen": f"LLEN {_KEY}",
    "lindex": f"LINDEX {_KEY} 0",
    "lrange": f"LRANGE {_KEY} 0 0",
    "zadd": f"ZADD {_KEY} 0 0",
    "zcard": f"ZCARD {_KEY}",
    "zscore": f"ZSCORE {_KEY} 0",
    "zmscore": f"ZMSCORE {_KEY} 0",
    "zrange": f"ZRANGE {_KEY} 0 0",
    "zrangebyscore": f"ZRANGEBYSCORE {_KEY} 0 0",
    "zremrangebyrank": f"ZREMRANGEBYRANK {_KEY} 0 0",
    "pubsub|numsub": f"PUBSUB NUMSUB {_CHANNEL}",
}
"""A call for each right that can be tried in a transaction; none of them runs."""


async def inspect(place: RedisPlace, names: str, prefix: str) -> BrokerReport:
    """Dial the server, and find out what its user may do.

    Args:
        place: Where it is.
        names: What the names of all channels and keys begin with.
        prefix: The part of it that the rights name.

    Raises:
        BrokerUnavailable: It cannot be reached, it refuses the login, or it went away.
    """
    missing: dict[str, None] = {}
    server = "unknown"
    try:
        with bounded():
            address = place.starts[0]
            if place.kind != "server":
                address, found = await find(place, (b"DEL", f"{names}primary".encode()))
                await found.close()
            for calls in _groups(names):
                stream = await open_stream(address, place.login)
                try:
                    for call in calls:
                        [reply] = await stream.call(call)
                        if call == _HELLO:
                            server = _server(reply)
                        lacks = _lacking(reply, prefix)
                        if lacks is not None:
                            missing[lacks] = None
                            if call == _MULTI:
                                break  # The others would run.
                finally:
                    await stream.close()
    except (OSError, RedisError) as exc:
        raise BrokerUnavailable(reason_of(exc)) from None
    of_history = [right for right in missing if right in HISTORY_RIGHTS.split()]
    return BrokerReport(
        server=server,
        missing=[right for right in missing if right not in of_history],
        missing_for_history=of_history,
    )


def _groups(names: str) -> Sequence[Sequence[Words]]:
    """Return calls; each list of them has a connection of its own."""
    name = f"{names}doctor".encode()
    queued = [
        tuple([name if word in {_KEY, _CHANNEL} else word.encode() for word in text.split()])
        for text in CALLS.values()
    ]
    alone = [(b"SUBSCRIBE", name), (b"UNSUBSCRIBE", name)]
    return [[_HELLO], [_MULTI, *queued], [(b"EXEC",)], alone]


def _server(reply: Any) -> str:
    """Read the reply to HELLO, which every user may send: names and values in turn."""
    if type(reply) is not list or len(reply) < 4:
        return "of unknown version"
    name, version = reply[1].decode(), reply[3].decode()
    return f"{name.capitalize()} {version}"


def _lacking(reply: object, prefix: str) -> str | None:
    """Return the right that an error names, as ``ACL SETUSER`` takes it; None: it names none."""
    text = str(reply) if isinstance(reply, ErrorReply) else ""
    text = text.removeprefix("EXECABORT Transaction discarded because of: ")
    if not text.startswith("NOPERM"):
        return None
    command = _command(text)
    if command is not None:
        return "+" + command[1].lower()
    return f"&{prefix}:*" if "channel" in text else f"~{prefix}:*"
