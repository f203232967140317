"""The sessions of both clients do the same, whatever happens in whatever order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.transcripts.replay import MONOTONIC, Client, Step, Transcript
from tests.transcripts.test_transcripts import replay_in_node

PATTERNS: Final = ("a.b", "a.c", "a.*", "*")
CODES: Final = ("FORBIDDEN", "UNAVAILABLE", "NOT_REPEATABLE")
"""Without ``RATE_LIMITED``: after it, what one of them asks for again may come in another order."""


class Recorder:
    """A Python client among a network and a server that do anything; it writes a transcript."""

    def __init__(self, seed: int) -> None:
        self.chance: Final = Random(seed)
        self.settings: Final[dict[str, Any]] = {
            "retry": {"first": True},
            "chance": self.chance.random(),
        }
        self.client: Final = Client(self.settings)
        self.steps: Final[list[Step]] = []
        self.at = 0
        self.number = 0
        self.offset = 0
        self.link = "none"
        self.unanswered: list[dict[str, Any]] = []
        self.holders: dict[str, str] = {}

    def record(self) -> Transcript:
        """Return what the client said and told, after each thing that happened."""
        for _ in range(60):
            self.happen()
        self.give({"do": "client.close"})
        return {"title": "random", "client": self.settings, "steps": self.steps}

    def give(self, step: Step) -> None:
        """Let the client take a step, and write down what it makes of it."""
        self.steps.append({"at": self.at, **step})
        self.client.take(self.steps[-1], self.at)
        for said in self.client.said:
            self.steps.append({"say": "client", **said})
            if "dial" in said:
                self.link = "dialling"
            elif "close" in said:
                self.link = "none" if said["close"] is not None else "cut"
            else:
                self.unanswered.append(said["frame"])
        for told in self.client.told:
            self.steps.append({"tell": "client", **told})
            if told["what"] == "dismissed":
                self.holders.pop(told["holder"], None)
        self.client.said.clear()
        self.client.told.clear()
        self.steps.append({"state": "client", "is": self.client.state})

    @property
    def due(self) -> float:
        """When the client's next timer is due, in milliseconds."""
        deadline = self.client.session.deadline
        return deadline if math.isinf(deadline) else math.ceil((deadline - MONOTONIC) * 1000)

    def happen(self) -> None:
        """One thing happens."""
        pick = self.chance.choice
        if self.link == "cut":
            self.lose()
            return
        if self.due > -math.inf:
            self.at = int(min(self.at + pick((0, 0, 1, 20, 900)), self.due))
        if self.due <= self.at:
            self.give({"do": "client.time" if self.steps else "client.connect"})
            return
        what = pick(("network", "answer", "answer", "answer", "server", "server", "page", "page"))
        if what == "network" and self.link == "dialling":
            self.link, self.unanswered = "open", []
            self.give({"do": "network.open"})
            self.hear("connected", data={"connection_id": "c", "subject": "u", **self.limits()})
        elif what == "network" and self.link == "open" and self.chance.random() < 0.5:
            self.lose()
        elif what == "answer" and self.link == "open" and self.unanswered:
            self.answer(self.unanswered.pop(self.chance.randrange(len(self.unanswered))))
        elif what == "server" and self.link == "open":
            self.volunteer()
        elif what == "page":
            self.want()

    def lose(self) -> None:
        self.link = "none"
        self.give({"do": "network.lost"})

    def limits(self) -> dict[str, Any]:
        some = {"max_names": 2, "messages_per_second": 3, "commands_per_second": 1}
        return some if self.chance.random() < 0.3 else {}

    def hear(self, kind: str, **more: Any) -> None:
        self.give({"say": "server", "frame": {"type": kind, "timestamp": 1, **more}})

    def position(self) -> dict[str, Any]:
        offset = max(0, self.offset + self.chance.choice((0, 0, 1, -1, -3)))
        tag = self.chance.choice(({}, {"tag": "t"}))
        return {"epoch": self.chance.choice(("e", "e", "e", "f")), "offset": offset, **tag}

    def answer(self, frame: dict[str, Any]) -> None:
        """Answer a message in some way."""
        pick, ref = self.chance.choice, frame.get("id")
        refused = self.chance.random() < 0.2
        error = {"code": pick(CODES), "message": "no"}
        match frame["type"]:
            case "ping":
                self.hear("pong", id=ref)
            case "subscribe" if not refused:
                self.confirm(frame)
            case "unsubscribe" if not refused:
                data = {"channels": frame["channels"], "active_subscriptions": 0}
                self.hear("unsubscribed", id=ref, data=data)
            case "command" | "publish" if refused:
                self.hear("response", id=ref, success=False, error=error)
            case "command" | "publish":
                self.hear("response", id=ref, success=True, data=1)
            case "subscribe" | "unsubscribe" | "get_status":
                self.hear("error", id=ref, error=error)

    def confirm(self, frame: dict[str, Any]) -> None:
        """Accept most names of a request, with positions for most."""
        chance, since = self.chance, frame.get("since", {})
        accepted, rejected, positions = [], [], []
        for name in frame["channels"]:
            strict = since.get(name, {}).get("strict", False)
            if chance.random() < (0.5 if strict else 0.1):
                code = "POSITION_LOST" if strict else "FORBIDDEN"
                rejected.append({"channel": name, "code": code, "message": "no"})
                continue
            accepted.append(name)
            if chance.random() < 0.8:
                recovered = {"recovered": chance.random() < 0.6} if name in since else {}
                positions.append({"channel": name, **self.position(), **recovered})
        data = {"channels": accepted, "active_subscriptions": 1, "rejected": rejected}
        self.hear("subscribed", id=frame["id"], data={**data, "positions": positions})

    def volunteer(self) -> None:
        """The server says something of its own."""
        pick = self.chance.choice
        match pick(("event", "event", "event", "gap", "taken", "ping")):
            case "event":
                self.offset += 1
                latest = pick(({}, {}, {"latest": True}))
                where = pick(({}, {"position": self.position(), **latest}))
                self.hear("event", channel=pick(PATTERNS[:2]), event="e", data=1, **where)
            case "gap":
                named = {"channels": [{"channel": "a.b", "lost": 1}]}
                self.hear("gap", data={"lost": 1, **pick(({}, named))})
            case "taken":
                self.hear("unsubscribed", data={"channels": ["a.b"], "active_subscriptions": 0})
            case "ping":
                self.hear("ping", id="p")

    def want(self) -> None:
        """The application wants something."""
        chance = self.chance
        self.number += 1
        match chance.choice(("subscribe", "subscribe", "unsubscribe", "publish", "command")):
            case "subscribe":
                pattern, holder = chance.choice(PATTERNS), f"h{self.number}"
                is_new = pattern not in self.holders.values()
                since = {"since": self.position()} if is_new and chance.random() < 0.4 else {}
                self.holders[holder] = pattern
                self.give({"do": "client.subscribe", "pattern": pattern, "holder": holder, **since})
            case "unsubscribe" if self.holders:
                holder = chance.choice(list(self.holders))
                pattern = self.holders.pop(holder)
                self.give({"do": "client.unsubscribe", "pattern": pattern, "holder": holder})
            case "publish":
                key = {"idempotency_key": f"i{self.number}"} if chance.random() < 0.7 else {}
                request = {"channel": "a.b", "event": "e", "data": 1, **key}
                self.give({"do": "client.publish", "key": f"k{self.number}", **request})
            case "command":
                idempotent = {"idempotent": True} if chance.random() < 0.5 else {}
                request = {"action": "x", "params": {}, **idempotent}
                self.give({"do": "client.command", "key": f"k{self.number}", **request})


def test_both_sessions_do_the_same(require_command: Callable[[str, str], str]) -> None:
    """What the one says and tells in a random conversation, the other says and tells, too."""
    conversations = [Recorder(seed).record() for seed in range(500)]
    text = json.dumps(conversations)
    seen = {what: text.count(f'"{what}"') for what in ("since", "strict", "retry", "latest")}

    differs = replay_in_node(require_command("node", "nodejs"), conversations)

    found = {seed: why for seed, why in enumerate(differs) if why is not None}
    assert list(found.items())[:3] == []
    assert min(seen.values()) > 100, seen
