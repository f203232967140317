"""Whatever a client sends has its stated consequence, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from tests.examples.peer import Peer, Server, token


def nested(levels: int) -> str:
    """Return arrays nested so deep."""
    return "[" * levels + "]" * levels


def command(params: str, action: str = "backtest.run") -> str:
    """Return a command with the id ``c1``."""
    return f'{{"type":"command","id":"c1","action":"{action}","params":{params}}}'


INVALID: Final = {
    "not JSON": "hello",
    "empty": "",
    "array": '["ping"]',
    "number": "1",
    "text": '"ping"',
    "null": "null",
    "no type": "{}",
    "type is a number": '{"type":1}',
    "two messages": '{"type":"ping"}\n{"type":"ping"}',
    "NaN": '{"type":"ping","timestamp":NaN}',
    "Infinity": '{"type":"ping","timestamp":Infinity}',
    "auth without token": '{"type":"auth"}',
    "token is a number": '{"type":"auth","token":1}',
    "no channels": '{"type":"subscribe"}',
    "channels is text": '{"type":"subscribe","channels":"grid.*"}',
    "channels is null": '{"type":"unsubscribe","channels":null}',
    "a channel is a number": '{"type":"subscribe","channels":["system.log",1]}',
    "half a character": '{"type":"subscribe","channels":["\\ud800"]}',
    "65 levels": f'{{"type":"ping","x":{nested(64)}}}',
    "30,000 levels": f'{{"type":"ping","x":{nested(30_000)}}}',
    "30,000 open": "[" * 30_000,
    "command without id and action": '{"type":"command"}',
    "id is a number": '{"type":"command","id":7,"action":"backtest.run"}',
}
INVALID_BY_RESPONSE: Final = {
    "no action": '{"type":"command","id":"c1"}',
    "action is a number": '{"type":"command","id":"c1","action":1}',
    "NaN in params": command('{"initial_capital":NaN}'),
    "65 levels": command(nested(64)),
    "half a character": command('{"pair":"\\udfff"}'),
}
PARAMS: Final = {
    "a list": "[]",
    "null": "null",
    "text for a number": '{"initial_capital":"1"}',
    "no date": '{"start_date":"2024-02-30"}',
    "a huge int": f'{{"initial_capital":1{"0" * 400}}}',
    "a huge exponent": '{"initial_capital":1e999}',
    "negative": '{"initial_capital":-1}',
    "the wrong way round": '{"start_date":"2024-02-02","end_date":"2024-02-01"}',
}
NO_CHANNELS: Final = {
    "empty": "",
    "17 segments": ".".join("abcdefghijklmnopq"),
    "an empty segment": "grid..status",
    "a dot at the end": "grid.",
    "a dot at the start": ".grid",
    "a space": "grid. abc",
    "a newline": "grid.\n",
    "part of a segment is a wildcard": "grid.a*",
    "two stars": "grid.**",
    "plus": "grid.+",
    "256 bytes": "a" * 256,
    "86 characters of three bytes": "格" * 86,
}


@asynccontextmanager
async def audience(server: Server) -> AsyncIterator[tuple[Peer, Peer, Peer]]:
    """Yield who misbehaves, and a witness; check at the end that the witness misses nothing."""
    async with (
        server.connect(token()) as peer,
        server.connect(token()) as witness,
        server.connect(token(), subprotocols=("wsbus.v1",)) as publisher,
    ):
        await publisher.hear("connected")
        await witness.subscribe("probe.*")
        await publisher.say({"type": "publish", "channel": "probe.before", "data": 1})
        await witness.hear("event", channel="probe.before")
        yield peer, witness, publisher
        await publisher.say({"type": "publish", "channel": "probe.after", "data": 2})
        assert (await witness.next())["channel"] == "probe.after"
        assert await witness.is_alive()


async def test_what_is_no_message_is_an_error(server: Server) -> None:
    """INVALID_MESSAGE, by an error without id; the connection lives on, as do all others."""
    async with audience(server) as (peer, _, _):
        for name, frame in INVALID.items():
            await peer.say(frame)
            answer = await peer.next()
            assert (answer["type"], answer["error"]["code"]) == ("error", "INVALID_MESSAGE"), name
            assert "id" not in answer
            assert list(answer) == ["type", "timestamp", "error"]
        assert (await peer.subscribe("system.log"))["active_subscriptions"] == 1


async def test_what_refuses_a_command_with_an_id_is_a_response(server: Server) -> None:
    """Its sender waits for nothing else."""
    async with audience(server) as (peer, _, _):
        for name, frame in INVALID_BY_RESPONSE.items():
            await peer.say(frame)
            answer = await peer.next()
            assert (answer["type"], answer["id"]) == ("response", "c1"), name
            assert answer["error"]["code"] == "INVALID_MESSAGE"


async def test_params_that_do_not_fit_are_validation_errors(server: Server) -> None:
    """Wrong types, ranges, and numbers that no float holds."""
    async with audience(server) as (peer, _, _):
        for name, params in PARAMS.items():
            await peer.say(command(params))
            answer = await peer.next()
            assert answer["type"] == "response"
            expected = (
                {"VALIDATION_ERROR", "INVALID_MESSAGE"} if "huge" in name else {"VALIDATION_ERROR"}
            )
            assert answer["error"]["code"] in expected, name


async def test_unknown_types_are_told_apart(server: Server) -> None:
    """UNKNOWN_TYPE, with the id if there was one; also what only the server says."""
    async with audience(server) as (peer, _, _):
        for kind in ("nope", "", "PING", "event", "response", "publish", "get_status"):
            answer = await peer.ask({"type": kind, "id": "x"}, "error")
            assert (answer["error"]["code"], answer["id"]) == ("UNKNOWN_TYPE", "x")


async def test_extra_keys_and_missing_timestamps_are_fine(server: Server) -> None:
    """They are ignored, whatever they hold; missing `params` are `{}`."""
    async with audience(server) as (peer, _, _):
        digits = "9" * 5000
        for extra in (
            '"timestamp":null',
            '"timestamp":"now"',
            f'"timestamp":{digits}',
            '"data":{"channels":7}',
            '"timestamp":-1.5e300',
        ):
            await peer.say(f'{{"type":"ping",{extra}}}')
            assert (await peer.next())["type"] == "pong"
        await peer.say('{"type":"command","id":"c1","action":"backtest.run","x":1}')
        assert (await peer.hear("response"))["success"] is True


async def test_names_that_are_no_channels_are_rejected(server: Server) -> None:
    """INVALID_CHANNEL in `rejected`, though all are refused; unsubscribing them is fine."""
    async with audience(server) as (peer, _, _):
        names = list(NO_CHANNELS.values())
        answer = await peer.subscribe(*names)
        assert (answer["channels"], answer["active_subscriptions"]) == ([], 0)
        assert [(r["channel"], r["code"]) for r in answer["rejected"]] == [
            (name, "INVALID_CHANNEL") for name in names
        ]
        await peer.say({"type": "unsubscribe", "channels": names})
        assert (await peer.hear("unsubscribed"))["data"]["channels"] == names


async def test_subscribing_twice_counts_once(server: Server) -> None:
    """It is accepted again, and one `unsubscribe` ends it; one more is idempotent."""
    async with audience(server) as (peer, _, _):
        for _again in range(2):
            answer = await peer.subscribe("quiet.a", "quiet.a")
            assert answer == {"channels": ["quiet.a", "quiet.a"], "active_subscriptions": 1}
        for _again in range(2):
            answer = await peer.ask(
                {"type": "unsubscribe", "channels": ["quiet.a"]}, "unsubscribed"
            )
            assert answer["data"] == {"channels": ["quiet.a"], "active_subscriptions": 0}


@pytest.mark.parametrize(
    ("frame", "is_text", "code"),
    [
        (b'{"type":"ping"}', False, 1003),
        (b'{"type":"ping","x":"\xff"}', True, 1007),
        (b'{"type":"ping","x":"\xed\xa0\x80"}', True, 1007),
        (b'{"type":"ping","x":"' + b"a" * 65536 + b'"}', True, 1009),
    ],
    ids=["binary", "invalid UTF-8", "half a character", "oversized"],
)
async def test_framing_faults_close_the_connection(
    server: Server, frame: bytes, is_text: bool, code: int
) -> None:
    """Binary 1003, what is not UTF-8 1007, more than 64 KiB 1009: one's own connection only."""
    async with audience(server) as (peer, _, _):
        await peer.socket.send(frame, text=is_text)
        assert await peer.close_code() == code


async def test_a_message_of_64_kib_is_read(server: Server) -> None:
    """The bound is what it says."""
    async with server.connect(token()) as peer:
        frame = '{"type":"ping","x":"' + "a" * (65536 - 22) + '"}'
        assert len(frame) == 65536
        await peer.say(frame)
        assert (await peer.next())["type"] == "pong"


async def test_no_poison_reaches_another(server: Server) -> None:
    """What a publisher may not say is refused, and what is passed on is JSON to every reader."""

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    async with audience(server) as (_, witness, publisher):
        for data in ("1e999", "NaN", '"\\ud800"', nested(64), '{"a":1', "[1]]"):
            await publisher.say(f'{{"type":"publish","id":"p","channel":"probe.x","data":{data}}}')
            answer = await publisher.next()
            assert answer["error"]["code"] == "INVALID_MESSAGE", data
        for channel in ("probe.*", "*", "probe..x", "probe.+"):
            await publisher.say({"type": "publish", "id": "p", "channel": channel, "data": 1})
            answer = await publisher.hear("response", id="p")
            assert answer["error"]["code"] == "INVALID_CHANNEL"
        odd = '"\\u2028\\n\\u0000<\\/script>格"'
        await publisher.say(f'{{"type":"publish","channel":"probe.odd","data":{odd}}}')
        frame = await witness.text()
        assert json.loads(frame.replace("…", "0"), parse_constant=refuse)["data"] == json.loads(odd)
        async with server.connect(token(), subprotocols=("wsbus.v1",)) as poisoner:
            await poisoner.socket.send(
                b'{"type":"publish","channel":"probe.x","data":{"x":"\xff"}}', text=True
            )
            assert await poisoner.close_code() == 1007
