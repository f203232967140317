"""Replays a transcript against one side of a conversation; README.md has the format."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any, Final

from wsbus.client.dialects import NativeDialect
from wsbus.core import actions as server_actions
from wsbus.core.channels import parse_channel
from wsbus.core.client import actions as client_actions
from wsbus.core.client.actions import LatestPublication
from wsbus.core.client.liveness import Liveness
from wsbus.core.client.retry import Retry
from wsbus.core.client.session import ClientSession
from wsbus.core.client.token import TokenUse
from wsbus.core.errors import (
    CommandError,
    ConnectError,
    ConnectionLost,
    MessageTooLarge,
    PositionLost,
    Unauthenticated,
    UsageError,
    WsbusError,
)
from wsbus.core.events import ChannelLoss, Gap, GapCause, Position
from wsbus.core.families import Families, History
from wsbus.core.heartbeat import Heartbeat, HeartbeatPolicy
from wsbus.core.history import MemoryHistory
from wsbus.core.instant import Instant
from wsbus.core.limits import Limits
from wsbus.core.messages import (
    Command,
    GetStatus,
    Greeting,
    Publication,
    Publish,
    Refused,
    Response,
    Status,
)
from wsbus.core.patterns import parse_pattern
from wsbus.core.permissions import Grants, Identity
from wsbus.core.session import Session
from wsbus.protocols.native import Native
from wsbus.server.archive import Archive

__all__ = ["TRANSCRIPTS", "Differs", "Step", "Transcript", "load", "replay"]

Step = dict[str, Any]
Transcript = dict[str, Any]
TRANSCRIPTS: Final = Path(__file__).parent
MONOTONIC: Final = 1000.0
WALL: Final = 1_700_000_000.0
"""The moment 0 of every transcript, in seconds since the epoch."""
ANY_TEXT: Final = "…"
"""Stands for a text for people, which servers word as they like."""
EVERYTHING: Final = {"subscribe": ["*"], "publish": ["*"], "command": ["*"]}
PROTOCOL: Final = Native()
DIALECT: Final = NativeDialect()


class Differs(AssertionError):
    """A side does something else than the transcript says."""


def load(path: Path) -> Transcript:
    """Read one transcript."""
    transcript: Transcript = json.loads(path.read_text(encoding="utf-8"))
    return transcript


def replay(transcript: Transcript, side: str) -> None:
    """Go through a transcript with one side.

    Raises:
        Differs: The side says, tells or is something else.
    """
    player = (Server if side == "server" else Client)(transcript.get(side, {}))
    at = 0
    for number, step in enumerate(transcript["steps"], 1):
        at = step.get("at", at)
        try:
            player.take(step, at)
        except Differs as exc:
            raise Differs(
                f"{transcript['title']}: step {number}, {json.dumps(step)}: {exc}"
            ) from None
    player.finish()


def text_of(frame: Any) -> str:
    """Return the text of a frame: a message, several messages, or a text as it is."""
    if isinstance(frame, str):
        return frame
    messages = frame if isinstance(frame, list) else [frame]
    return "\n".join(json.dumps(m, ensure_ascii=False, separators=(",", ":")) for m in messages)


def masked(frame: str) -> str:
    """Return a frame of a server without its texts for people; its keys stay in their order."""
    message = json.loads(frame)
    faults = [message["error"]] if "error" in message else []
    if message["type"] == "subscribed":
        faults += message["data"].get("rejected", [])
    for fault in faults:
        fault["message"] = ANY_TEXT
    return text_of(message)


class Player:
    """One side: takes what happens, and compares what follows with what the transcript says."""

    side: str

    def __init__(self) -> None:
        self.said: Final[deque[Any]] = deque()
        self.told: Final[deque[Any]] = deque()
        self.now = Instant(MONOTONIC, WALL)

    def take(self, step: Step, at: float) -> None:
        """Go one step: something happens, or something is compared."""
        now = Instant(MONOTONIC, WALL).later(at / 1000)
        if "say" in step and step["say"] == self.side:
            said = {key: value for key, value in step.items() if key not in {"say", "at"}}
            self.compare("says", self.said, said)
        elif "tell" in step and step["tell"] == self.side:
            told = {key: value for key, value in step.items() if key not in {"tell", "at"}}
            self.compare("tells", self.told, told)
        elif "state" in step:
            if step["state"] == self.side and self.state != step["is"]:
                raise Differs(f"its state is {self.state}")
        elif "say" in step or "do" in step:
            if "do" in step:  # What is said at one moment may cross on its way.
                self.finish()
            self.now = now
            self.happen(step)

    def compare(self, verb: str, queue: deque[Any], expected: Any) -> None:
        """Compare with the next thing that this side says, or tells."""
        found = queue.popleft() if queue else None
        if found != self.normal(expected):
            raise Differs(f"it {verb} {found}")

    def finish(self) -> None:
        """Nothing is left that the transcript does not have."""
        for verb, queue in (("says", self.said), ("tells", self.told)):
            if queue:
                raise Differs(f"before this it {verb} {queue[0]}")

    @property
    def state(self) -> str:
        """The name of the state that it is in."""
        raise NotImplementedError

    def normal(self, expected: Any) -> Any:
        """Return an expectation in the form that is compared."""
        return expected

    def happen(self, step: Step) -> None:
        """Act on what the application, the network or the other side does."""
        raise NotImplementedError


class Server(Player):
    """A server's session for each connection, with what its driver adds to it."""

    side = "server"

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings: Final = settings
        self.limits: Final = Limits(**settings.get("limits", {}))
        heartbeat = {"interval": None, "timeout": None, **settings.get("heartbeat", {})}
        self.policy: Final = HeartbeatPolicy(**heartbeat, spreads=False)
        self.session: Session | None = None
        self.connections = 0
        self.questions: deque[int] = deque()
        self.events = self.dropped = 0
        self.families: Final = Families()
        for pattern, kept in settings.get("history", {}).items():
            self.families.declare(pattern, history=History(**kept))
        self.restart("e1")

    @property
    def state(self) -> str:
        return self.session.state.name.lower() if self.session else "gone"

    def restart(self, epoch: str) -> None:
        """Begin another numbering: what was kept is gone."""
        self.archive = Archive(self.families, MemoryHistory(epoch), lambda: self.now)

    def normal(self, expected: Any) -> Any:
        # Keys in the order in which they stand.
        return (
            {**expected, "frame": text_of(expected["frame"])} if "frame" in expected else expected
        )

    def happen(self, step: Step) -> None:  # noqa: C901, PLR0912  # one row for each step
        session, now = self.session, self.now
        match step:
            case {"do": "network.open"}:
                self.open()
            case {"do": "network.lost"} | {"say": "client", "close": _}:
                self.session = None
            case {"say": "client", "frame": frame} | {"do": "client.say", "frame": frame}:
                self.read(text_of(frame))
            case {"say": "client", "binary": _} | {"do": "client.say", "binary": _}:
                self.do(self.live.close(1003, "wsbus.v1 is text only"))
            case {"do": "server.publish"}:
                self.publish(step)
            case {"do": "server.restart", "epoch": epoch}:
                self.restart(epoch)
            case {"do": "server.gap", "lost": lost}:
                self.dropped += lost or 0
                self.say(Gap(lost, GapCause(step.get("cause", "server")), losses(step)))
            case {"do": "server.accept", "subject": subject}:
                self.judged(identity(step, subject, now))
            case {"do": "server.refuse", "why": why}:
                self.judged(why)
            case {"do": "server.answer", "id": ref}:
                self.say(Response(text_of_data(step["data"]), ref))
            case {"do": "server.fail", "id": ref, "code": code, "message": message}:
                self.say(Refused(code, message, ref, is_call=True))
            case {"do": "server.revoke", "pattern": pattern}:
                self.do(self.live.revoke(parse_pattern(pattern), step.get("reason")))
            case {"do": "server.close", "code": code, "reason": reason}:
                self.do(self.live.close(code, reason))
            case {"do": "server.time"}:
                if self.live.deadline > now.monotonic:
                    raise Differs(f"its time is {self.live.deadline - MONOTONIC:g} s")
                self.do(self.live.handle_deadline(now))
            case _ if session is None and step.get("do", "").startswith("server."):
                raise Differs("there is no connection")

    @property
    def live(self) -> Session:
        """The session of the connection that there is."""
        if self.session is None:
            raise Differs("there is no connection")
        return self.session

    def open(self) -> None:
        """Take a connection, and greet it."""
        who = self.settings.get("identity", {"subject": "anonymous", **EVERYTHING})
        known = None if who is None else identity(who, who["subject"], self.now)
        self.connections += 1
        self.events = self.dropped = 0
        self.opened = self.now
        self.session = Session(
            protocol=PROTOCOL,
            limits=self.limits,
            heartbeat=Heartbeat(self.policy, self.now.monotonic),
            identity=known,
            now=self.now,
            takes_tokens=self.settings.get("takes_tokens", False),
            attaches=self.families.keeps_any,
        )
        limits, policy = self.limits, self.policy
        self.say(
            Greeting(
                f"c{self.connections}",
                None if known is None else known.subject,
                policy.interval,
                policy.timeout,
                limits.max_message_bytes,
                limits.max_names,
                limits.messages_per_second,
                limits.commands_per_second,
            )
        )

    def read(self, frame: str) -> None:
        """Act on a frame, message by message."""
        session, now = self.live, self.now
        session.heartbeat.seen(now.monotonic)
        for message in PROTOCOL.split(frame):
            rate = session.rate
            if rate is not None and rate.tokens < 1 and not rate.take(now.monotonic, 0):
                self.do(session.handle(PROTOCOL.glance(message), now))
                continue
            for request in PROTOCOL.decode(message):
                self.do(session.handle(request, now))

    def publish(self, step: Step) -> None:
        """Keep it if it has history, and send an event, if anything that is subscribed matches."""
        channel = parse_channel(step["channel"])
        event = step.get("event", "message")
        publication = Publication(channel, event, text_of_data(step["data"]), self.now.wall)
        history = self.families.history_of(channel)
        if history is not None:
            publication = self.archive.keep(publication, history, self.now.monotonic)
        patterns = () if self.session is None else self.session.patterns
        if any(pattern.matches(channel) for pattern in patterns):
            self.events += 1
            self.said.append({"frame": PROTOCOL.encode_publication(publication).text})

    def judged(self, verdict: Identity | str) -> None:
        """Answer what the session asks; then it acts on what waited."""
        self.do(self.live.handle_answer(self.questions.popleft(), verdict, self.now))
        while (waited := self.live.resume(self.now)) is not None:
            self.do(waited)

    def say(self, reply: Any) -> None:
        frame = PROTOCOL.encode(reply, self.now)
        assert frame is not None
        self.said.append({"frame": masked(frame.text)})

    def do(self, todo: list[server_actions.Action]) -> None:  # noqa: C901  # one row for each
        """Perform what the session wants."""
        for action in todo:
            match action:
                case server_actions.Send(reply):
                    self.say(reply)
                case server_actions.Close(code, reason):
                    self.said.append({"close": code, "reason": reason})
                case server_actions.Invoke(call):
                    told = {"action": call.action, "params": json.loads(call.params)}
                    self.tell("command", call.ref, **told)
                case server_actions.Emit(channel, publish):
                    told = {"channel": channel, "event": publish.event}
                    if publish.idempotency_key is not None:
                        told["idempotency_key"] = publish.idempotency_key
                    if publish.is_retry:
                        told["retry"] = True
                    self.tell("publish", publish.ref, **told, data=json.loads(publish.data))
                case server_actions.AskToken(generation, token):
                    self.questions.append(generation)
                    self.tell("token", token=token)
                case server_actions.ReportStatus(ref):
                    self.say(self.status(ref))
                case server_actions.Attach(number, patterns, since):
                    brought = self.archive.bring(patterns, since)
                    self.do(self.live.handle_answer(number, brought, self.now))
                case server_actions.Replay(publications, is_latest):
                    encode = PROTOCOL.encode_latest if is_latest else PROTOCOL.encode_publication
                    self.events += len(publications)
                    self.said.extend({"frame": encode(each).text} for each in publications)
                case _:  # What only concerns the hub.
                    pass

    def tell(self, what: str, ref: str | None = None, **more: Any) -> None:
        self.told.append({"what": what, **({"id": ref} if ref is not None else {}), **more})

    def status(self, ref: str | None) -> Status:
        session = self.live
        return Status(
            connection_id=f"c{self.connections}",
            subject=session.identity.subject if session.identity else None,
            connected_at=self.opened.wall,
            subscriptions=tuple(session.subscriptions),
            message_count=self.events,
            dropped=self.dropped,
            ref=ref,
        )


class Client(Player):
    """A client's session, with what its driver adds to it."""

    side = "client"

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        retry = settings.get("retry", {})
        seconds = {key: retry[key] / 1000 for key in ("base", "cap") if key in retry}
        counts = {key: retry[key] for key in ("attempts", "first") if key in retry}
        self.chance: Final = settings.get("chance", 0.5)
        self.session: Final = ClientSession[str](
            token=TokenUse(
                fixed=settings.get("token"),
                is_fetched=settings.get("fetches", False),
                in_handshake=settings.get("in_handshake", False),
            ),
            retry=Retry(**seconds, **counts),
            liveness=Liveness(
                settings.get("ping_interval", 15_000) / 1000,
                settings.get("ping_timeout", 20_000) / 1000,
            ),
            measure=DIALECT.measure,
        )
        self.is_connected = False
        self.generation = 0

    @property
    def state(self) -> str:
        return self.session.state.name.lower()

    def normal(self, expected: Any) -> Any:
        # A client writes keys in any order.
        return expected

    def happen(self, step: Step) -> None:  # noqa: C901, PLR0912  # one row for each step
        session, now = self.session, self.now
        is_due = session.deadline <= now.monotonic
        match step:
            case {"do": "client.connect"} | {"do": "client.time"}:
                if not is_due:
                    raise Differs(f"its time is {session.deadline - MONOTONIC:g} s")
                self.do(session.handle_deadline(now))
            case {"do": "client.subscribe", "pattern": pattern, "holder": holder}:
                since = step.get("since") and Position(**step["since"])
                self.do(session.subscribe(parse_pattern(pattern), holder, now, since))
            case {"do": "client.unsubscribe", "pattern": pattern, "holder": holder}:
                self.do(session.unsubscribe(parse_pattern(pattern), holder, now))
            case {"do": "client.command", "key": key, "action": action}:
                request = Command(action, text_of_data(step.get("params", {})))
                idem = step.get("idempotent", False)
                self.do(session.request(key, request, now, is_idempotent=idem))
            case {"do": "client.publish", "key": key, "channel": channel}:
                data = text_of_data(step["data"])
                event, idempotency = step.get("event", "message"), step.get("idempotency_key")
                publish = Publish(channel, event, data, None, idempotency)
                self.do(session.request(key, publish, now))
            case {"do": "client.status", "key": key}:
                self.do(session.request(key, GetStatus(), now))
            case {"do": "client.token", "token": token}:
                self.do(session.handle_token(self.generation, token, now))
            case {"do": "client.no_token", "why": why}:
                self.do(session.handle_no_token(self.generation, why, now, self.chance))
            case {"do": "client.close"}:
                self.do(session.close())
            case {"do": "network.open"}:
                self.is_connected = True
                self.do(session.opened(now))
            case {"do": "network.lost"}:
                self.lost(1006, "")
            case {"say": "server", "close": code, "reason": reason}:
                self.lost(code, reason)
            case {"say": "server", "frame": frame}:
                self.hear(text_of(frame))
            case _:  # What only concerns the server.
                return

    def lost(self, code: int, reason: str) -> None:
        self.is_connected = False
        self.do(self.session.lost(code, reason, self.now, self.chance))

    def hear(self, frame: str) -> None:
        """Act on a frame, message by message."""
        for heard in DIALECT.decode(frame):
            if not isinstance(heard, Publication):
                self.do(self.session.handle(heard, self.now))
                continue
            holders = sorted(self.session.receive(heard))
            if holders:
                told = {"channel": heard.channel, "event": heard.event}
                at = round(heard.timestamp * 1000)
                more = {"latest": True} if isinstance(heard, LatestPublication) else {}
                data = json.loads(heard.data)
                self.tell("event", holders=holders, **told, timestamp=at, data=data, **more)

    def do(self, todo: list[client_actions.ClientAction]) -> None:
        for action in todo:
            self.perform(action)

    def tell(self, what: str, **more: Any) -> None:
        self.told.append({"what": what, **more})

    def perform(self, action: client_actions.ClientAction) -> None:  # noqa: C901, PLR0912
        """Perform what the session wants; one row for each action."""
        match action:
            case client_actions.Say(request):
                self.said.append({"frame": json.loads(DIALECT.encode(request))})
            case client_actions.Dial(token):
                self.said.append({"dial": {} if token is None else {"token": token}})
            case client_actions.HangUp(code, _):
                if self.is_connected:
                    self.said.append({"close": code})
            case client_actions.Cut():
                self.said.append({"close": None})
            case client_actions.FetchToken(generation):
                self.generation = generation
                self.tell("token")
            case client_actions.Answer(key, Response(data)):
                self.tell("answer", key=key, data=json.loads(data))
            case client_actions.Answer(key, Status() as status):
                self.tell("answer", key=key, data=facts(status))
            case client_actions.Answer(key, WsbusError() as error):
                is_lost = isinstance(error, ConnectError | ConnectionLost)
                self.tell("failed", key=key, code="CONNECTION_LOST" if is_lost else code_of(error))
            case client_actions.Confirm(holder, _):
                self.tell("confirmed", holder=holder)
            case client_actions.Dismiss(holder, error):
                self.tell("dismissed", holder=holder, code=code_of(error))
            case client_actions.Lose(holder, gap):
                named = {name: loss.lost for name, loss in (gap.channels or {}).items()}
                channels = {"channels": named} if named else {}
                self.tell("missed", holder=holder, lost=gap.lost, cause=gap.cause, **channels)
            case client_actions.TellConnected(connection_id, subject, is_again):
                known = {"connection_id": connection_id, "subject": subject}
                self.tell("connected", **known, again=is_again)
            case client_actions.TellReconnecting(attempt, delay, _):
                self.tell("reconnecting", attempt=attempt, delay=round(delay * 1000))
            case client_actions.TellRefreshFailed(_):
                self.tell("refresh_failed")
            case client_actions.Stop(error):
                self.tell("ended", **({} if error is None else {"code": code_of(error)}))


def code_of(error: WsbusError) -> str | int:
    """Return the code of an error: of the server, of the end of a connection, or the client's."""
    match error:
        case CommandError(code=code):
            return str(code)
        case PositionLost():
            return "POSITION_LOST"
        case Unauthenticated() | ConnectionLost(code=4401 | 4500):
            return "UNAUTHENTICATED"
        case MessageTooLarge():
            return "TOO_LARGE"
        case ConnectionLost(code=code):
            return code
        case ConnectError():
            return "GAVE_UP" if str(error).startswith("gave up") else 1006
        case UsageError():
            return "CLOSED"
        case _:
            raise AssertionError(error)


def facts(status: Status) -> dict[str, Any]:
    """Return what the answer to ``get_status`` holds."""
    found: dict[str, Any] = {"connection_id": status.connection_id, "subject": status.subject}
    found |= {"connected_at": round(status.connected_at * 1000)}
    found |= {"subscriptions": list(status.subscriptions)}
    return found | {"message_count": status.message_count, "dropped": status.dropped}


def losses(step: Step) -> dict[str, ChannelLoss] | None:
    """Return what is missing of each channel, if that is known."""
    channels = step.get("channels")
    return channels and {name: ChannelLoss(lost) for name, lost in channels.items()}


def identity(step: Step, subject: str, now: Instant) -> Identity:
    """Return who a client is."""
    names = {key: step[key] for key in ("subscribe", "publish", "command") if key in step}
    expires_in = step.get("expires_in")
    expires_at = None if expires_in is None else now.wall + expires_in / 1000
    return Identity(subject, Grants.of(**names), expires_at)


def text_of_data(data: Any) -> bytes:
    """Return data as JSON."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
