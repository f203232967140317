"""The protocol reference says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from tests.docs.documents import rows_below
from wsbus.core import messages
from wsbus.core.channels import FORBIDDEN_CODES, escape_segment, parse_channel, unescape_segment
from wsbus.core.errors import ErrorCode
from wsbus.core.events import ChannelLoss, GapCause, Position
from wsbus.core.heartbeat import HeartbeatPolicy
from wsbus.core.instant import Instant
from wsbus.core.messages import Malformed, Publication, Refused, Rejection, ServerMessage
from wsbus.core.overflow import Overflow
from wsbus.core.patterns import parse_pattern
from wsbus.core.presence import Occupant
from wsbus.protocols import Native, ZigQuant
from wsbus.protocols.common import Dialogue, FromServer
from wsbus.protocols.tagged import ClientMessage

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")
SAMPLES: Final = re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
NOW: Final = Instant(monotonic=17.0, wall=1703836800.0)

PATTERNS: Final = ("grid.*", "system.health")
DATA: Final = b'{"side":"buy","price":94000,"amount":0.001}'
STARTED: Final = b'{"grid_id":"grid_abc123","status":"starting"}'
FORBIDDEN: Final = Rejection("*", ErrorCode.FORBIDDEN, "no grant covers this")
NOT_AN_INT: Final = "Expected `int`, got `str` - at `$.params.grid_count`"
NO_CHANNELS: Final = "Object missing required field `channels`"
REPLIES: Final[list[ServerMessage]] = [
    messages.Greeting("8e5c82e2cfed57af", "u1", 30.0, 60.0, 65536, 128, 100, 10),
    messages.AuthAccepted("u1", 1703840400.0, "a1"),
    messages.AuthRefused("the token has expired", ref="a1"),
    messages.Subscribed(PATTERNS, 3, (FORBIDDEN,), "s1"),
    messages.Unsubscribed(("grid.*",), 2, "s2"),
    messages.Unsubscribed(("room.1",), 2, reason="banned by a moderator"),
    messages.Gap(3),
    messages.Gap(None, GapCause.BROKER),
    messages.Gap(
        3,
        channels={"chat.room": ChannelLoss(2, Position("k3v9", 41)), "prices.BTC": ChannelLoss(1)},
    ),
    messages.Response(STARTED, "c1"),
    messages.Refused(ErrorCode.VALIDATION_ERROR, NOT_AN_INT, "c1", is_call=True),
    messages.Response(b'{"matched":2,"accepted":2}', "p1"),
    messages.Status(
        connection_id="8e5c82e2cfed57af",
        subject="u1",
        connected_at=1703836700.0,
        subscriptions=PATTERNS,
        message_count=7,
        dropped=0,
        ref="q1",
    ),
    messages.Subscribed(
        ("chat.*", "grid.*"),
        2,
        ref="s1",
        positions=(messages.StartPosition("chat.*", Position("k3v9", 42), is_recovered=True),),
    ),
    messages.HistoryResult(
        "chat.room",
        (
            Publication(
                parse_channel("chat.room"),
                "message",
                b'{"text":"hello"}',
                NOW.wall - 10,
                position=Position("k3v9", 41),
                previous=Position("k3v9", 38),
            ),
        ),
        Position("k3v9", 57),
        has_more=True,
        ref="h1",
    ),
    messages.PresenceResult(
        "chat.room", (Occupant("8e5c82e2cfed57af", "u1"),), 1, is_watched=True, ref="w1"
    ),
    messages.PresenceChanged("chat.room", (Occupant("b71e0c44d2a95f13", "u2"),), (), 2),
    messages.Refused(ErrorCode.INVALID_MESSAGE, NO_CHANNELS, "s1"),
    messages.Ping(),
    messages.Pong("7"),
]


def table(header: str) -> list[list[str]]:
    """Return the rows of the page's table that begins so, without back quotes."""
    return rows_below(PAGE, header)


def of_server(struct: type[Any]) -> set[str]:
    """Return the types of all messages that derive from ``struct``."""
    tag = struct.__struct_config__.tag
    found = {tag} if isinstance(tag, str) and tag.islower() else set()
    return found.union(*(of_server(derived) for derived in struct.__subclasses__()))


def of_client(dialect: type[Dialogue]) -> set[str]:
    """Return the types of what a client may send."""
    structs: tuple[type[ClientMessage], ...] = dialect.messages
    return {str(struct.__struct_config__.tag) for struct in structs}


def spoken(column: int, header: str) -> set[str]:
    """Return the types of messages that a dialect has, by the page."""
    rows = table(header)
    return {row[0].removeprefix("[").partition("]")[0] for row in rows if row[column] == "yes"}


def ordered(sample: str) -> str:
    """Return JSON text without white space between its parts, keys in their order."""
    return json.dumps(json.loads(sample), ensure_ascii=False)


def test_every_message_type_is_there() -> None:
    """The two tables of messages hold every type of both dialects, and mark who has it."""
    header = "from the client | answer | `wsbus.v1` | `zigquant-v2`"
    assert spoken(2, header) == of_client(Native)
    assert spoken(3, header) == of_client(ZigQuant)

    header = "from the server | when | `wsbus.v1` | `zigquant-v2`"
    assert spoken(2, header) == of_server(FromServer)
    assert spoken(3, header) == {json.loads(sample)["type"] for sample in said_by(ZigQuant())}


def test_every_message_has_a_section() -> None:
    """Every type of message has a section of its own, with a sample and a list of keys."""
    for name in (of_client(Native) | of_server(FromServer)) - {"ping", "pong"}:
        section = TEXT.partition(f"\n### {name}\n")[2].partition("\n#")[0]

        assert "```json" in section, name
        assert f'| `type` | `"{name}"`' in section, name


def said_by(dialect: Dialogue) -> list[str]:
    """Return all that the dialect can say, of what the page shows."""
    events = [
        Publication(parse_channel("grid.grid_abc123.order"), "filled", DATA, NOW.wall),
        Publication(
            parse_channel("chat.room"),
            "message",
            b'{"text":"hello"}',
            NOW.wall,
            position=Position("k3v9", 42),
            previous=Position("k3v9", 41),
        ),
    ]
    frames = [dialect.encode(reply, NOW) for reply in REPLIES]
    frames += [dialect.encode_publication(event) for event in events]
    return [frame.text for frame in frames if frame is not None]


def test_what_the_server_says_is_shown_word_for_word() -> None:
    """Each message of the server stands on the page as it is sent, but for white space."""
    shown = {ordered(sample) for sample in SAMPLES}

    assert {ordered(text) for text in said_by(Native())} <= shown


def test_each_sample_is_of_the_server_or_understood_by_it() -> None:
    """A sample is either what the server says, or a message that it understands."""
    said = {ordered(text) for text in said_by(Native())}

    for sample in {ordered(sample) for sample in SAMPLES} - said:
        (command,) = Native().decode(sample)

        assert not isinstance(command, Malformed), sample


@pytest.mark.parametrize("type_", ["publish", "history", "presence", "get_status"])
def test_the_differences_are_those_of_the_table(type_: str) -> None:
    """What zigquant-v2 lacks is answered as the page says."""
    samples = [sample for sample in SAMPLES if json.loads(sample)["type"] == type_]
    (command,) = ZigQuant().decode(ordered(samples[0]))

    assert isinstance(command, Malformed)
    assert command.code == "UNKNOWN_TYPE"


def test_the_names_escape_as_shown() -> None:
    """The escaped names on the page are those that the library makes, and they come back."""
    for name, segment in table("name | segment"):
        text = "" if name == "(empty)" else name

        assert escape_segment(text) == segment
        assert unescape_segment(segment) == text


def test_the_forbidden_code_points_are_those_of_the_page() -> None:
    """The page lists the table of the library, range by range."""
    block = TEXT[TEXT.index("0000-0020") :]
    words = block[: block.index("xFFFE-xFFFF where x is 1 to D")].split()
    words += [f"{plane:X}FFFE-{plane:X}FFFF" for plane in range(0x1, 0xE)]
    ranges = [(word + "-" + word).split("-")[:2] for word in words]

    assert sorted((int(first, 16), int(last, 16)) for first, last in ranges) == sorted(
        FORBIDDEN_CODES
    )


def test_the_patterns_match_as_shown() -> None:
    """The table of patterns is true."""
    for pattern, matched, unmatched in table("pattern | matches | does not match"):
        parsed = parse_pattern(pattern)
        yes, no = ([n for n in cell.split(", ") if n] for cell in (matched, unmatched))

        assert all(parsed.matches(name) for name in yes if " " not in name), pattern
        assert not any(parsed.matches(name) for name in no), pattern


def test_every_overflow_policy_is_explained() -> None:
    """The table of policies holds each of them once."""
    rows = table("policy | what is lost")

    assert [row[0].split()[0] for row in rows] == list(Overflow)


def test_the_heartbeat_has_its_defaults() -> None:
    """The page tells the default heartbeat."""
    policy = HeartbeatPolicy()
    rows = {row[0]: row[1] for row in table(" | default | where")}

    assert rows == {
        "ping_interval": f"{policy.interval:g} s",
        "timeout": f"{policy.timeout:g} s",
    }


def test_a_refused_command_is_a_response_only_with_an_id() -> None:
    """What refuses a command is an error where there is no id to pair it by."""
    frame = Native().encode(Refused("FORBIDDEN", "no", is_call=True), NOW)

    assert frame is not None
    assert json.loads(frame.text)["type"] == "error"
