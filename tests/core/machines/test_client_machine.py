"""A client session against real server sessions and a real hub, over pipes of bytes that break.

What the client may say, and when, is judged by a model of its own (:class:`Allowance`), which is
written from the table in docs/reference/clients.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsbus.client.dialects import ClientDialect, dialect
from wsbus.core import actions
from wsbus.core.channels import Channel, parse_channel
from wsbus.core.client import actions as wanted
from wsbus.core.client.actions import LatestPublication
from wsbus.core.client.liveness import Liveness
from wsbus.core.client.retry import Advice, Retry
from wsbus.core.client.session import ClientSession, ClientState
from wsbus.core.client.token import TokenUse
from wsbus.core.errors import (
    CloseCode,
    CommandError,
    ConnectError,
    ConnectionLost,
    ErrorCode,
    MessageTooLarge,
    UsageError,
    WsbusError,
)
from wsbus.core.events import GapCause
from wsbus.core.families import Families, History
from wsbus.core.frame import join_lines
from wsbus.core.heartbeat import Heartbeat, HeartbeatPolicy
from wsbus.core.history import MemoryHistory
from wsbus.core.hub import Hub
from wsbus.core.instant import Instant
from wsbus.core.limits import Limits
from wsbus.core.member import Member
from wsbus.core.messages import (
    Command,
    Gap,
    Greeting,
    Publication,
    Refused,
    Request,
    Response,
    ServerMessage,
    Status,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from wsbus.core.outlet import Outlet, Owed
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.permissions import Grants, Identity
from wsbus.core.queue import MessageQueue
from wsbus.core.session import Session
from wsbus.protocols import WireProtocol, protocol
from wsbus.server.archive import Archive
from wsbus.testing.frames import FrameReader

START: Final = Instant(100.0, 1_700_000_000.0)
ALL: Final = Grants.of(admin=True, command=["*"])
LESS: Final = Grants.of(subscribe=["a.*"], command=["*"])
UNLIMITED: Final[dict[str, Any]] = {"messages_per_second": None, "commands_per_second": None}
NARROW: Final[dict[str, Any]] = {
    "messages_per_second": 4.0,
    "commands_per_second": 2.0,
    "max_message_bytes": 150,
    "max_names": 2,
}
SILENT: Final = HeartbeatPolicy(interval=10, timeout=50)
CHANNELS: Final = [parse_channel(name) for name in ("a", "b", "a.x", "a.y")]
PATTERNS: Final = [parse_pattern(text) for text in ("a", "a.x", "a.*", "*.x", "*", "b")]


class Holder:
    """One subscription of the application's, and what it should know."""

    def __init__(self, pattern: Pattern, *, asks: bool) -> None:
        self.pattern = pattern
        self.asks = asks
        self.is_confirmed = False
        """It was told so, over the connection that there is."""
        self.was_confirmed = False
        self.is_over = False
        self.got: list[int] = []
        self.last: dict[Channel, int] = {}
        """The last one of each channel."""
        self.since = 0
        """Publications after this one are owed, as long as nothing is told to be missing."""


class Asked:
    """One request, and how often it was answered."""

    def __init__(self, *, is_idempotent: bool, is_large: bool) -> None:
        self.is_idempotent = is_idempotent
        self.is_large = is_large
        """Larger than the server reads."""
        self.is_forgotten = False
        self.outcomes: list[object] = []
        self.sent = 0
        self.executed = 0
        self.refused = 0
        """The client heard so often that it was over the rate."""
        self.refused_at = -math.inf
        self.is_waiting = False
        """It was refused for the rate, and not sent since."""


class Allowance:
    """What a client may say over one connection, from the table in docs/reference/clients.md.

    "the server tells its rates: requests wait their turn: at most 97 % of each rate, and 80 % of a
    second's worth at once". "A request for *n* names counts as one message for each 8 begun".
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.said: dict[str, list[tuple[float, int]]] = {"messages": [], "commands": []}
        self.told_at = now

    def say(self, command: Request, size: int, now: float) -> None:
        """Check a message, and count it."""
        limits = self.limits
        # "a message is larger than `max_message_bytes`: … it is not sent"
        assert size <= limits.max_message_bytes
        cost = 1
        if isinstance(command, Subscribe | Unsubscribe):
            # "at most `max_names` (128 if untold) and 16 KiB in one request"
            assert len(command.names) <= limits.max_names
            cost = math.ceil(len(command.names) / 8)
        self.said["messages"].append((now, cost))
        if isinstance(command, Command):
            self.said["commands"].append((now, 1))
        if not isinstance(command, Subscribe | Unsubscribe | Command):
            return  # Pings and their answers cannot wait; what follows them does.
        self.check("messages", limits.messages_per_second, now)
        if isinstance(command, Command):
            self.check("commands", limits.commands_per_second, now)

    def check(self, kind: str, rate: float | None, now: float) -> None:
        """However far one looks back, it was not too much."""
        if rate is None:
            return
        total = 0
        for at, cost in reversed(self.said[kind]):
            total += cost
            assert total <= max(1.0, 0.8 * rate) + 0.97 * rate * (now - at) + 1e-4, kind


class Nowhere(Outlet):
    """Where members go to whom nothing is written here."""

    receiver = None

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None: ...


class Link:
    """One connection: bytes both ways, and the server's side of it."""

    def __init__(self, hub: Hub, speaks: WireProtocol, number: int, session: Session) -> None:
        self.session = session
        self.id = f"c{number}"
        self.member = Member(speaks, MessageQueue[Owed](5, 1000), Nowhere())
        self.up = bytearray()
        self.down = bytearray()
        self.reader = FrameReader()
        self.is_swallowing = False
        """Nothing comes through any more, and nobody is told."""
        self.closing: tuple[int, str] | None = None
        """What the server says when all before it is read."""
        self.is_served = True
        self.calls: list[Command] = []
        self.asked: actions.AskToken | None = None
        hub.attach(self.member)
        hub.block(self.member, ())  # It goes by its queue: `write` empties it.


class ClientMachine(RuleBasedStateMachine):
    """Application, driver, network and server, each doing anything that it may do at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.families = Families()
        self.families.declare("a.*", history=History(size=10))
        self.hub = Hub(families=self.families)
        self.epochs = 0
        self.flush()
        self.link: Link | None = None
        self.zombies: list[Link] = []
        self.links = 0
        self.holders: list[Holder] = []
        self.requests: list[Asked] = []
        self.largest_answered = 0
        self.by_ref: dict[str, Asked] = {}
        self.asked_refs: dict[str, tuple[str, ...]] = {}
        self.joined_at: dict[str, int] = {}
        self.confirmed: dict[str, int] = {}
        """Names that the server has confirmed over this connection, and since which publication."""
        self.published: list[tuple[int, Channel]] = []
        self.last_heard = 0
        self.said: list[ServerMessage] = []
        self.fetching: int | None = None
        self.is_dialling = False
        self.due_cut = False
        self.allowance: Allowance | None = None
        """Of this connection, once its server has told its limits."""
        self.grants = ALL
        self.lifetime: float | None = None
        self.stopped: list[WsbusError | None] = []

    @initialize(
        name=st.sampled_from(["wsbus.v1", "wsbus.v1", "zigquant-v2"]),
        narrow=st.sampled_from([{}, NARROW, NARROW]),
        tells=st.sampled_from([True, True, False]),
        token=st.sampled_from(["none", "fixed", "fetched"]),
        attempts=st.sampled_from([None, 3]),
        assigned=st.sampled_from([[], [], PATTERNS[:1], PATTERNS[2:3]]),
    )
    def begin(
        self,
        name: str,
        narrow: dict[str, Any],
        *,
        tells: bool,
        token: str,
        attempts: int | None,
        assigned: list[Pattern],
    ) -> None:
        self.assigned = assigned
        if name == "wsbus.v1":  # The other one cannot tell the latest from what is new.
            self.families.declare("b", history=History(size=1))
        self.limits = Limits(max_subscriptions=3, **UNLIMITED | narrow)
        self.tells = tells and name == "wsbus.v1"
        self.server: WireProtocol = protocol(name)
        self.speaks: ClientDialect = dialect(name)
        self.needs_token = token != "none"
        use = TokenUse(fixed="t" if token == "fixed" else None, is_fetched=token == "fetched")
        self.client = ClientSession[Holder](
            token=use,
            retry=Retry(attempts=attempts, first=True),
            liveness=Liveness(),
            greets=self.speaks.greets,
            measure=self.speaks.measure,
        )
        self.tick_client()
        if self.fetching is not None:
            self.fetch(is_late=True, fails=False)
        self.connect()

    # --- the client's driver ---------------------------------------------------------------------

    def perform(self, todo: Sequence[wanted.ClientAction]) -> None:  # noqa: C901, PLR0912
        assert not (self.stopped and todo), "something was done after the end"
        for action in todo:
            match action:
                case wanted.Say(command):
                    self.say(command)
                case wanted.Answer(key, outcome):
                    self.answer(key, outcome)
                case wanted.Confirm(holder, _):
                    assert not holder.is_confirmed
                    assert not holder.was_confirmed
                    self.confirm(holder, max(self.confirmed_since(holder), self.last_heard))
                case wanted.Lose(holder, gap):
                    self.lose(holder, gap)
                case wanted.Dismiss(holder, error):
                    assert holder.asks
                    assert not holder.is_over
                    assert isinstance(error, WsbusError)
                    holder.is_over, holder.is_confirmed = True, False
                case wanted.FetchToken(generation):
                    self.fetching = generation
                case wanted.Dial():
                    assert self.link is None
                    assert not self.is_dialling
                    self.is_dialling = True
                case wanted.Cut():
                    self.due_cut = True
                case wanted.HangUp():
                    self.drop(is_noticed=False)
                case wanted.Stop(error):
                    self.stopped.append(error)
                case _:
                    pass
        if self.due_cut and not self.stopped:
            self.lose_link(CloseCode.ABNORMAL, "")

    def say(self, command: Request) -> None:
        assert self.link is not None, "said into the air"
        match command:
            case Subscribe(names, ref):
                assert ref is not None
                assert self.client.state is ClientState.OPEN
                self.asked_refs[ref] = names
            case Command(ref=ref):
                assert ref is not None
                request = self.requests[int(command.params)]
                assert ref not in self.by_ref, "a ref was used twice"
                self.by_ref[ref] = request
                request.sent += 1
                # "`RATE_LIMITED`: the server did not act on the request: it is sent again after a
                # pause"
                assert request.sent - request.refused == 1 or request.is_idempotent
                assert self.now.monotonic > request.refused_at
                assert not request.outcomes
                assert not request.is_forgotten
                request.is_waiting = False
            case _:
                pass
        text = self.speaks.encode(command)
        if self.allowance is not None:
            self.allowance.say(command, len(text), self.now.monotonic)
        self.link.up += len(text).to_bytes(4) + text

    def answer(self, request: Asked, outcome: object) -> None:
        assert not request.is_forgotten
        assert not request.outcomes, "answered twice"
        request.outcomes.append(outcome)
        if isinstance(outcome, MessageTooLarge):
            assert self.allowance is not None, "too large for a limit that nobody told"
            assert request.is_large
            assert not request.sent
        if isinstance(outcome, ConnectionLost):
            is_over = self.client.state is ClientState.ENDED
            is_resent = self.is_resent(request, outcome.code)
            assert is_over or (request.sent and not is_resent and not request.is_waiting)
        if isinstance(outcome, Response | CommandError):
            self.largest_answered = max(self.largest_answered, 1 + request.is_large)

    def is_resent(self, request: Asked, code: int) -> bool:
        # "the server closes with 1009: what may have caused it is not sent again, not even if it is
        # idempotent", "a message that is larger than every one that was ever answered may be"
        is_suspect = code == CloseCode.MESSAGE_TOO_BIG and 1 + request.is_large > (
            self.largest_answered
        )
        return request.is_idempotent and not is_suspect

    def confirmed_since(self, holder: Holder) -> int:
        if not holder.asks:
            return 0
        assert holder.pattern.text in self.confirmed, "confirmed, but not by the server"
        return self.confirmed[holder.pattern.text]

    def confirm(self, holder: Holder, since: int) -> None:
        holder.is_confirmed = holder.was_confirmed = True
        holder.since = since

    def lose(self, holder: Holder, gap: Gap) -> None:
        assert holder.was_confirmed
        assert not holder.is_over
        if gap.cause is GapCause.RECONNECT:
            assert gap.lost is None
            self.confirm(holder, self.confirmed_since(holder))
        else:
            # "A gap that comes before `subscribed` may count for what is missing after it."
            assert holder.is_confirmed or holder.pattern.text in self.confirmed
            holder.is_confirmed = True
            assert gap.lost is not None
            holder.since = len(self.published)

    def drop(self, *, is_noticed: bool) -> None:
        """The client's end of the connection is gone; the server notices now, or later."""
        link, self.link = self.link, None
        self.due_cut = self.is_dialling = False
        self.allowance = None
        self.confirmed.clear()
        for holder in self.holders:
            holder.is_confirmed = holder.is_confirmed and not holder.asks
        if link is not None:
            self.zombies.append(link)
            if is_noticed:
                self.bury(link)

    def bury(self, link: Link) -> None:
        self.zombies.remove(link)
        if link.is_served:
            link.is_served = False
            link.session.close(CloseCode.ABNORMAL, "")
            self.hub.detach(link.member, link.session.patterns)

    def lose_link(self, code: int, reason: str, *, is_noticed: bool = True) -> None:
        self.drop(is_noticed=is_noticed)
        before = [r for r in self.requests if r.sent and not (r.outcomes or r.is_forgotten)]
        self.perform(self.client.lost(code, reason, self.now, 0.5))
        for request in before:
            is_resent = self.is_resent(request, code)
            assert request.outcomes or is_resent or request.is_waiting, "not told at once"

    # --- the server ------------------------------------------------------------------------------

    def serve(self, link: Link, todo: Sequence[actions.Action]) -> None:  # noqa: C901  # one table
        for action in todo:
            match action:
                case actions.Send(reply):
                    self.reply(link, reply)
                case actions.Join(pattern):
                    self.hub.join(link.member, pattern)
                case actions.Leave(pattern):
                    self.hub.leave(link.member, pattern)
                case actions.Invoke(call):
                    self.requests[int(call.params)].executed += 1
                    link.calls.append(call)
                case actions.ReportStatus(ref):
                    names = tuple(link.session.subscriptions)
                    status = Status(link.id, "u", 0.0, names, 0, 0, ref)
                    self.reply(link, status)
                case actions.AskToken():
                    link.asked = action
                case actions.Attach(number, patterns, since):
                    brought = self.archive.bring(patterns, since)
                    self.serve(link, link.session.handle_answer(number, brought, self.now))
                case actions.Replay(publications, is_latest):
                    self.hub.replay(link.member, publications, is_latest=is_latest)
                case actions.Adopt():
                    pass
                case actions.Close(code, reason):
                    link.closing = (code, reason)
                case _:
                    raise AssertionError(action)

    def reply(self, link: Link, reply: ServerMessage) -> None:
        if isinstance(reply, Subscribed) and reply.ref is not None:
            self.joined_at[reply.ref] = len(self.published)
        self.said.append(reply)
        frame = self.server.encode(reply, self.now)
        if frame is not None:
            self.hub.send(link.member, frame)

    def write(self, link: Link, max_bytes: int = 65536) -> None:
        """Write what the connection owes, gaps where they belong."""
        loss, items = link.member.take(max_bytes)
        frames = [item.frame for item in items if item.frame is not None]
        if loss is not None:
            gap = self.server.encode(Gap(loss.lost), self.now)
            frames[:0] = [] if gap is None else [gap]
            if gap is None:  # zigquant-v2 has no word for it: nobody can know.
                for holder in self.holders:
                    holder.since = len(self.published)
        joined = join_lines(frames) if self.server.joins else frames
        link.down += b"".join(frame.wire for frame in joined)

    # --- the network -----------------------------------------------------------------------------

    def connect(self) -> None:
        self.is_dialling = False
        self.links += 1
        identity = None if self.needs_token else Identity("u", self.grants)
        session = Session(
            protocol=self.server,
            limits=self.limits,
            heartbeat=Heartbeat(SILENT, self.now.monotonic),
            identity=identity,
            now=self.now,
            takes_tokens=self.needs_token,
            attaches=self.families.keeps_any,
        )
        link = self.link = Link(self.hub, self.server, self.links, session)
        limits = self.limits
        told = (
            limits.max_message_bytes,
            limits.max_names,
            limits.messages_per_second,
            limits.commands_per_second,
        )
        subject = None if self.needs_token else "u"
        self.reply(link, Greeting(link.id, subject, 10, 50, *(told if self.tells else ())))
        for pattern in self.assigned:
            self.serve(link, session.assign(pattern))
        self.perform(self.client.opened(self.now))

    @precondition(lambda self: self.is_dialling and not self.stopped)
    @rule(comes_about=st.sampled_from([True, True, True, False]))
    def dial(self, *, comes_about: bool) -> None:
        if comes_about:
            self.connect()
        else:
            self.is_dialling = False
            error = ConnectError("no")
            self.perform(self.client.failed(error, Advice.NOW, self.now, 0.5))

    @rule(channel=st.sampled_from(CHANNELS), count=st.sampled_from([0, 1, 8]))
    def pass_all(self, channel: Channel, count: int) -> None:
        """Most of the time the network is quick."""
        for _ in range(2):
            self.pass_up(1 << 20)
            self.pass_down(1 << 20, 65536)
            self.publish(channel, count)

    @rule(size=st.integers(0, 60) | st.just(1 << 20))
    def pass_up(self, size: int) -> None:
        link = self.link
        if link is None or link.is_swallowing:
            return
        self.read_up(link, size)

    def read_up(self, link: Link, size: int) -> None:
        """The server reads some bytes, and acts on what is complete with them."""
        data = link.up[: max(size, 0)]
        while len(data) >= 4:
            end = 4 + int.from_bytes(data[:4])
            if len(data) < end:
                break
            text = data[4:end].decode()
            del data[:end], link.up[:end]
            if len(text) > self.limits.max_message_bytes and link.closing is None:
                link.closing = (CloseCode.MESSAGE_TOO_BIG, "")
            if link.is_served and link.closing is None:
                link.session.heartbeat.seen(self.now.monotonic)
                for command in self.server.decode(text):
                    self.serve(link, link.session.handle(command, self.now))

    @rule(size=st.integers(0, 200) | st.just(1 << 20), max_bytes=st.sampled_from([1, 65536]))
    def pass_down(self, size: int, max_bytes: int) -> None:
        link = self.link
        if link is None or link.is_swallowing:
            return
        self.write(link, max_bytes)
        data = bytes(link.down[:size])
        del link.down[:size]
        for frame in link.reader.feed(data):
            for heard in self.speaks.decode(frame.payload.decode()):
                if self.link is link and not self.stopped:
                    self.hear(heard)
        if self.link is link and link.closing and not link.down and not link.member.queue:
            self.lose_link(*link.closing)

    def hear(self, heard: wanted.Heard | Publication) -> None:  # one table
        if isinstance(heard, Publication):
            self.deliver(heard)
            return
        if isinstance(heard, Greeting) and self.tells:
            self.allowance = Allowance(self.limits, self.now.monotonic)
        if isinstance(heard, Refused) and heard.code == ErrorCode.RATE_LIMITED:
            request = self.by_ref.get(heard.ref or "")
            if request is not None:
                request.refused += 1
                request.is_waiting = True
                request.refused_at = self.now.monotonic
        if isinstance(heard, Subscribed) and heard.ref in self.asked_refs:
            asked = self.asked_refs.pop(heard.ref)
            if self.client.state is ClientState.OPEN:
                for name in heard.names:
                    assert name in asked
                    self.confirmed[name] = self.joined_at[heard.ref]
        self.perform(self.client.handle(heard, self.now))
        if isinstance(heard, Subscribed):
            self.recover(heard)

    def recover(self, heard: Subscribed) -> None:
        """Nothing is told, and all is owed as before: "`recovered: true` … You missed nothing"."""
        recovered = {start.name for start in heard.positions if start.is_recovered}
        for holder in self.holders:
            if holder.was_confirmed and holder.pattern.text in recovered & set(self.confirmed):
                holder.is_confirmed = True

    def deliver(self, delivery: Publication) -> None:
        number = int(delivery.data)
        audience = self.client.receive(delivery)
        expected = [
            holder
            for holder in self.holders
            if holder.is_confirmed
            and not holder.is_over
            and holder.pattern.matches(delivery.channel)
        ]
        assert set(audience) <= set(expected)
        assert len(audience) == len(set(audience)), "twice at once"
        if isinstance(delivery, LatestPublication):
            return  # "It does not move a mark, and is no duplicate whatever its offset."
        for holder in set(expected) - set(audience):
            # "An event is new for a pattern if …": else they have got it, or begin later.
            assert delivery.position is not None
            assert number in holder.got or number <= holder.since, "dropped, and it was new"
        for holder in audience:
            if holder.asks:
                assert holder.pattern.text in self.confirmed, "before its confirmation"
                assert number not in holder.got, "twice"
                assert number > holder.last.get(delivery.channel, 0), "out of order"
            holder.last[delivery.channel] = number
            if holder.asks:
                owed = [
                    other
                    for other, channel in self.published
                    if holder.since < other < number and holder.pattern.matches(channel)
                ]
                assert set(owed) <= set(holder.got), "missing, and nobody said so"
            holder.got.append(number)
        self.last_heard = number

    @precondition(lambda self: self.link is not None and not self.stopped)
    @rule(up=st.integers(0, 200), down=st.integers(0, 200), is_noticed=st.booleans())
    def cut(self, up: int, down: int, *, is_noticed: bool) -> None:
        """The connection breaks at some byte, each way; the server may not notice for a while."""
        link = self.link
        assert link is not None
        if not link.is_swallowing:
            self.read_up(link, up)
            self.pass_down(down, 65536)
        if self.link is link and not self.stopped:
            self.lose_link(CloseCode.ABNORMAL, "", is_noticed=is_noticed)

    @precondition(lambda self: self.link is not None and not self.stopped)
    @rule(channel=st.sampled_from(CHANNELS), missed=st.sampled_from([0, 1, 3, 12]))
    def come_again(self, channel: Channel, missed: int) -> None:
        """The next connection comes about soon, and something happens before it and after."""
        if not any(holder.asks for holder in self.holders):
            self.subscribe(PATTERNS[2], asks=True)
        self.pass_all(channel, 1)
        if self.link is None or self.stopped:
            return
        self.cut(0, 0, is_noticed=True)
        self.publish(channel, missed)
        self.now = self.now.later(30)
        for _ in range(2):
            self.tick_client()
            if self.fetching is not None:
                self.fetch(is_late=False, fails=False)
        if self.is_dialling:
            self.dial(comes_about=True)
            self.pass_all(channel, 1)

    @precondition(lambda self: self.link is not None)
    @rule(sure=st.integers(0, 2))
    def swallow(self, sure: int) -> None:
        if not sure and self.link is not None:
            self.link.is_swallowing = True

    @precondition(lambda self: self.zombies)
    @rule()
    def notice(self) -> None:
        self.bury(self.zombies[0])

    @precondition(lambda self: self.link is not None and not self.stopped)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A hostile server says again what it said, over whatever connection, or makes answers up.

        What no ``ref`` marks as an answer cannot be told from news, and is left out.
        """
        link = self.link
        assert link is not None
        asked = [r for r in self.said if getattr(r, "ref", None) is not None]
        guesses: list[ServerMessage] = [Response(b"0", str(n)) for n in range(1, 12)]
        # A confirmation that is made up would be news, too, if nobody had heard the real one.
        old = [
            r
            for r in asked
            if isinstance(r, Response | Status)
            or (isinstance(r, Subscribed) and r.ref not in self.asked_refs)
        ]
        frame = self.server.encode(data.draw(st.sampled_from(old + guesses)), self.now)
        if frame is not None:
            self.hub.send(link.member, frame)

    # --- the application -------------------------------------------------------------------------

    @precondition(lambda self: not self.stopped and len(self.holders) < 12)
    @rule(pattern=st.sampled_from(PATTERNS), asks=st.sampled_from([True, True, True, False]))
    def subscribe(self, pattern: Pattern, *, asks: bool) -> None:
        holder = Holder(pattern, asks=asks)
        self.holders.append(holder)
        if asks:
            self.perform(self.client.subscribe(pattern, holder, self.now))
        else:
            self.perform(self.client.listen(pattern, holder))

    @precondition(lambda self: self.holders)
    @rule(index=st.integers(0, 11))
    def unsubscribe(self, index: int) -> None:
        holder = self.holders.pop(index % len(self.holders))
        self.perform(self.client.unsubscribe(holder.pattern, holder, self.now))
        if not any(h.asks and h.pattern == holder.pattern for h in self.holders):
            self.confirmed.pop(holder.pattern.text, None)

    @precondition(lambda self: not self.stopped and len(self.requests) < 10)
    @rule(is_idempotent=st.booleans(), is_large=st.sampled_from([False, False, False, True]))
    def request(self, *, is_idempotent: bool, is_large: bool) -> None:
        is_large = is_large and self.limits.max_message_bytes == NARROW["max_message_bytes"]
        request = Asked(is_idempotent=is_idempotent, is_large=is_large)
        self.requests.append(request)
        params = str(len(self.requests) - 1).encode() + b" " * (150 * is_large)
        is_told = self.allowance is not None and self.client.state is ClientState.OPEN
        call = Command("run", params)
        self.perform(self.client.request(request, call, self.now, is_idempotent=is_idempotent))
        # "a message is larger than `max_message_bytes`: `TOO_LARGE` at once"
        if is_large and is_told:
            assert isinstance(request.outcomes[0], MessageTooLarge)

    @precondition(lambda self: self.requests)
    @rule(index=st.integers(0, 9))
    def forget(self, index: int) -> None:
        request = self.requests[index % len(self.requests)]
        is_unsent = self.client.forget(request)
        assert not is_unsent or not (request.outcomes or request.executed)
        request.is_forgotten = True

    @precondition(lambda self: self.fetching is not None and not self.stopped)
    @rule(is_late=st.booleans(), fails=st.sampled_from([False, False, True]))
    def fetch(self, *, is_late: bool, fails: bool) -> None:
        assert self.fetching is not None
        generation, self.fetching = self.fetching, None
        if is_late:
            assert self.client.handle_token(generation - 1, "late", self.now) == []
        if fails:
            self.perform(self.client.handle_no_token(generation, "why", self.now, 0.5))
        else:
            self.perform(self.client.handle_token(generation, "t", self.now))

    @rule(sure=st.integers(0, 30))
    def close(self, sure: int) -> None:
        if not sure and not self.stopped:
            self.perform(self.client.close())
            assert self.stopped == [None]

    # --- the server's application ----------------------------------------------------------------

    @rule(channel=st.sampled_from(CHANNELS), count=st.sampled_from([1, 1, 2, 8]))
    def publish(self, channel: Channel, count: int) -> None:
        """Eight are more than the queue of a connection holds."""
        for _ in range(count):
            number = len(self.published) + 1
            self.published.append((number, channel))
            publication = Publication(channel, "e", str(number).encode(), START.wall)
            history = self.families.history_of(channel)
            if history is not None:
                publication = self.archive.keep(publication, history, self.now.monotonic)
            self.hub.publish(publication)

    @rule(sure=st.integers(0, 6))
    def lose_the_store(self, sure: int) -> None:
        """What was kept is gone, and another numbering begins."""
        if not sure:
            self.flush()

    def flush(self) -> None:
        self.epochs += 1
        history = MemoryHistory(str(self.epochs))
        self.archive = Archive(self.families, history, lambda: self.now)

    @precondition(lambda self: self.link is not None and self.link.calls)
    @rule(index=st.integers(0, 9))
    def finish(self, index: int) -> None:
        assert self.link is not None
        call = self.link.calls.pop(index % len(self.link.calls))
        self.reply(self.link, Response(call.params, call.ref))

    @precondition(lambda self: self.link is not None and self.link.asked is not None)
    @rule(is_less=st.booleans(), lifetime=st.sampled_from([None, 5.0, 100.0]))
    def judge(self, *, is_less: bool, lifetime: float | None) -> None:
        link = self.link
        assert link is not None
        assert link.asked is not None
        generation, link.asked = link.asked.request, None
        ends = None if lifetime is None else self.now.wall + lifetime
        verdict = Identity("u", LESS if is_less else ALL, ends)
        self.serve(link, link.session.handle_answer(generation, verdict, self.now))
        while (waited := link.session.resume(self.now)) is not None:
            self.serve(link, waited)

    @precondition(lambda self: self.link is not None)
    @rule(pattern=st.sampled_from(PATTERNS), joins=st.booleans())
    def assign(self, pattern: Pattern, *, joins: bool) -> None:
        assert self.link is not None
        session = self.link.session
        self.serve(self.link, (session.assign if joins else session.unassign)(pattern))

    @precondition(lambda self: self.link is not None)
    @rule(code=st.sampled_from([1001, 1012, 4000, 4401, 4429, 4510]), sure=st.integers(0, 6))
    def leave(self, code: int, sure: int) -> None:
        assert self.link is not None
        if not sure and self.link.is_served:
            self.serve(self.link, self.link.session.close(code, "told to"))

    # --- time ------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 1, 5, 16, 40]))
    def wait(self, seconds: float) -> None:
        self.now = self.now.later(seconds)

    @rule()
    def tick_client(self) -> None:
        is_due = self.now.monotonic >= self.client.deadline
        before = self.client.deadline
        todo = self.client.handle_deadline(self.now)
        assert is_due or not todo
        assert self.client.deadline > self.now.monotonic or before == self.client.deadline
        self.perform(todo)

    @rule()
    def tick_server(self) -> None:
        link = self.link
        if link is not None and link.is_served and self.now.monotonic >= link.session.deadline:
            self.serve(link, link.session.handle_deadline(self.now))

    @precondition(lambda self: not self.stopped)
    @rule()
    def settle(self) -> None:
        """Everything heals, and all that is said is heard: then both sides believe the same."""
        for _ in range(500):
            if self.stopped or self.step_towards_peace():
                break
        else:
            raise AssertionError("no peace")
        if self.stopped:
            return
        link = self.link
        assert link is not None
        assert self.client.state is ClientState.OPEN
        wanted_names = {h.pattern.text for h in self.holders if h.asks and not h.is_over}
        assert set(link.session.subscriptions) == set(self.client.subscriptions) == wanted_names
        assert all(h.is_confirmed for h in self.holders if not h.is_over)
        for request in self.requests:
            assert request.is_forgotten or len(request.outcomes) == 1

    def step_towards_peace(self) -> bool:
        """Do all that can be done; tell whether there was nothing."""
        if self.fetching is not None:
            self.fetch(is_late=False, fails=False)
        elif self.is_dialling:
            self.dial(comes_about=True)
        elif self.link is None or self.link.is_swallowing:
            self.now = self.now.later(max(0.0, self.client.deadline - self.now.monotonic))
            self.tick_client()
        elif self.link.asked is not None:
            self.judge(is_less=False, lifetime=None)
        elif self.link.calls:
            self.finish(0)
        elif self.link.up:
            self.pass_up(1 << 20)
        elif self.link.down or self.link.member.queue or self.link.closing:
            self.pass_down(1 << 20, 65536)
        elif not self.is_settled:  # The rates of the server leave no room yet.
            self.now = self.now.later(max(0.01, self.client.deadline - self.now.monotonic))
            self.tick_client()
        else:
            return True
        return False

    @property
    def is_settled(self) -> bool:
        """Whether the client has said all that it is to say, and has heard the answers."""
        asked = {h.pattern.text for h in self.holders if h.asks and not h.is_over}
        answered = all(request.is_forgotten or request.outcomes for request in self.requests)
        link = self.link
        assert link is not None
        return answered and asked == set(self.client.subscriptions) == set(
            link.session.subscriptions
        )

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_is_said_without_a_connection(self) -> None:
        if not hasattr(self, "client"):
            return
        has_link = self.client.state in {ClientState.GREETING, ClientState.OPEN}
        assert has_link == (self.link is not None)
        assert (self.client.state is ClientState.ENDED) == bool(self.stopped)
        assert len(self.stopped) <= 1

    @invariant()
    def who_waits_is_waited_for(self) -> None:
        """While it is not over, there is always something that will move it on."""
        if not hasattr(self, "client") or self.stopped:
            return
        moves = self.fetching is not None or self.is_dialling or self.link is not None
        assert moves or self.client.deadline < float("inf")
        assert self.client.state is ClientState.FETCHING or self.client.deadline < float("inf")

    @invariant()
    def nothing_is_carried_out_again_by_itself(self) -> None:
        for request in self.requests:
            assert request.executed <= request.sent
            assert request.executed <= 1 or request.is_idempotent
            assert request.sent - request.refused <= 1 or request.is_idempotent

    def teardown(self) -> None:
        if hasattr(self, "client"):
            if not self.stopped:
                self.settle()
            self.perform(self.client.close())
            assert self.stopped
            for request in self.requests:
                assert request.is_forgotten or len(request.outcomes) == 1
                outcome = request.outcomes[0] if request.outcomes else None
                if isinstance(outcome, UsageError) and not isinstance(outcome, MessageTooLarge):
                    assert self.stopped == [None]


TestClientMachine = ClientMachine.TestCase
