"""The server's session and the clients' sessions hold the same conversations."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from tests.transcripts import replay as replaying
from tests.transcripts.replay import TRANSCRIPTS, Differs, Step, Transcript, load, replay
from wsbus.core import messages
from wsbus.core.frame import Frame
from wsbus.core.instant import Instant
from wsbus.core.packing import pack_json, text_of, unpack
from wsbus.protocols.msgpack import MessagePack
from wsbus.protocols.native import Native

PATHS: Final = sorted(TRANSCRIPTS.glob("*.json"))
MESSAGEPACK: Final = MessagePack()
SIDES: Final = ("server", "client")
PAIRS: Final = [
    (path, side) for path in PATHS for side in SIDES if side in load(path).get("sides", SIDES)
]
NAMES: Final = [f"{path.stem}-{side}" for path, side in PAIRS]


@pytest.mark.parametrize(("path", "side"), PAIRS, ids=NAMES)
def test_python_holds_the_conversation(path: Any, side: str) -> None:
    """Each side says, tells and is what the transcript says, step by step."""
    replay(load(path), side)


@pytest.mark.parametrize(("path", "side"), PAIRS, ids=NAMES)
def test_a_changed_transcript_is_found_to_differ(path: Any, side: str) -> None:
    """Nothing in a transcript is only for show: each expectation fails when it is changed."""
    transcript = load(path)
    changes = list(changed(transcript, side))

    assert changes
    for other in changes:
        with pytest.raises(Differs):
            replay(other, side)


def in_json(frame: Frame) -> Frame:
    """Return the same message, with numbers as the transcripts write them."""
    message = json.loads(text_of(unpack(frame.payload)))
    return Frame(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())


class Repacked(Native):
    """``wsbus.v1.msgpack`` between a session and a transcript, which is in JSON."""

    def understand(self, text: str | bytes) -> messages.Request:
        try:
            packed = pack_json(text.encode() if isinstance(text, str) else text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return super().understand(text)
        [request] = MESSAGEPACK.decode(packed)
        if isinstance(request, messages.Command):
            params = text_of(unpack(request.params))
            return msgspec.structs.replace(request, params=params)
        return request

    def glance(self, message: str | bytes) -> messages.Excess:
        assert isinstance(message, str)
        return MESSAGEPACK.glance(pack_json(message.encode()))

    def encode(self, reply: messages.ServerMessage, at: Instant) -> Frame | None:
        frame = MESSAGEPACK.encode(reply, at)
        return None if frame is None else in_json(frame)

    def encode_publication(self, publication: messages.Publication) -> Frame:
        return in_json(MESSAGEPACK.encode_publication(publication))

    def encode_latest(self, publication: messages.Publication) -> Frame:
        return in_json(MESSAGEPACK.encode_latest(publication))


@pytest.mark.parametrize(
    "path", [path for path, side in PAIRS if side == "server"], ids=lambda path: path.stem
)
def test_the_server_holds_the_conversation_in_messagepack(
    path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """protocol.md: the messages, their keys and their order are those of ``wsbus.v1``."""
    monkeypatch.setattr(replaying, "PROTOCOL", Repacked())
    replay(load(path), "server")


def test_javascript_holds_the_conversations(require_command: Callable[[str, str], str]) -> None:
    """The JavaScript client's session says and tells the same, and finds every change."""
    node = require_command("node", "nodejs")
    transcripts = [load(path) for path, side in PAIRS if side == "client"]
    changes = [other for each in transcripts for other in changed(each, "client")]

    differs = replay_in_node(node, [*transcripts, *changes])

    titles = [transcript["title"] for transcript in transcripts]
    found = dict(zip(titles, differs, strict=False))
    assert {title: why for title, why in found.items() if why is not None} == {}
    assert all(differs[len(transcripts) :])


def replay_in_node(node: str, transcripts: list[Transcript]) -> list[str | None]:
    """Replay transcripts in Node; return for each what differs, if anything does."""
    done = subprocess.run(
        [node, TRANSCRIPTS / "replay.mjs"],
        input=json.dumps(transcripts),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    differs: list[str | None] = json.loads(done.stdout)
    return differs


def changed(transcript: Transcript, side: str) -> Iterator[Transcript]:
    """Yield the transcript with one expectation of this side left out, or another one."""
    for number, step in enumerate(transcript["steps"]):
        if side not in {step.get("say"), step.get("tell"), step.get("state")}:
            continue
        for other in ([], [another(step)]):
            if "state" in step and not other:
                continue  # Steps need not name a state.
            copied = copy.deepcopy(transcript)
            copied["steps"][number : number + 1] = other
            yield copied


def another(step: Step) -> Step:
    """Return the step with something else in its last value, wherever that stands."""
    copied = copy.deepcopy(step)
    place: Any = copied
    while True:
        key = list(place)[-1] if isinstance(place, dict) else len(place) - 1
        value = place[key]
        if key == "error" or (key == "rejected" and value):
            place[key] = {"code": "ANOTHER", "message": "…"}
            return copied
        if not (isinstance(value, dict | list) and value):
            place[key] = "another" if value != "another" else "one more"
            return copied
        place = value


def test_transcripts_are_as_described() -> None:
    """There are enough; each has a title of its own, says what it shows, and stays short."""
    transcripts = [load(path) for path in PATHS]
    titles = [transcript["title"] for transcript in transcripts]

    assert len(transcripts) >= 20
    assert len(set(titles)) == len(titles)
    for path, transcript in zip(PATHS, transcripts, strict=True):
        assert set(transcript) <= {"title", "shows", "sides", "server", "client", "steps"}
        assert transcript["shows"], path
        assert 2 < len(transcript["steps"]) <= 60, path
        for step in transcript["steps"]:
            assert len({"do", "say", "tell", "state"} & set(step)) == 1, (path, step)
        moments = [step["at"] for step in transcript["steps"] if "at" in step]
        assert moments == sorted(moments), path
        json.dumps(transcript, allow_nan=False)
