from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from websockets.sync.server import Server as ScriptedServer
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_script
from websockets.typing import Subprotocol

from tests.cli.running import PATIENCE
from tests.client.servers import Server, serving
from wsbus import Limits
from wsbus.cli import wsbus
from wsbus.cli.exits import Exit
from wsbus.cli.tail_view import show
from wsbus.client import Event, Gap, GapCause

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "how-to" / "command-line.md"
REFERENCE: Final = ROOT / "docs" / "reference" / "command-line.md"
COMMAND: Final = (sys.executable, "-m", "wsbus")
MINUTES: Final = 480
"""Seconds for what takes four on a machine that does nothing else."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """Give a server that no test stops."""
    with serving() as running:
        yield running


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a server of the test's own."""
    with serving() as running:
        yield running


def run(command: str, *arguments: str, stdin: str | None = None, token: str = "ada") -> Result:
    """Run a command in this process; the token is in the variable."""
    return CliRunner().invoke(
        wsbus, [command, *arguments], input=stdin, env={"WSBUS_TOKEN": token}, prog_name="wsbus"
    )


@contextmanager
def once_subscribed(server: Server, *patterns: str) -> Iterator[list[tuple[str, Any]]]:
    """Publish what is put in the list, when somebody is subscribed to the patterns."""
    publications: list[tuple[str, Any]] = []
    is_over = threading.Event()

    def publish() -> None:
        while not publications or list(patterns) not in server.held():
            if is_over.wait(0.005):  # Nobody tells when a client's request was carried out.
                return
        for channel, data in publications:
            server.publish(channel, data)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield publications
    finally:
        is_over.set()
        thread.join()


class Running:
    """A command in a process of its own."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        environment = os.environ | {"WSBUS_TOKEN": "ada"} | options.pop("env", {})
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            text=True,
            env=environment,
            **options,
        )

    def said(self, words: str) -> str:
        """Read stderr up to a line that holds the words."""
        assert self.process.stderr is not None
        before = []
        for line in self.process.stderr:
            before.append(line)
            if words in line:
                return line
        raise AssertionError("".join(before))

    def line(self) -> str:
        """Read a line of stdout."""
        assert self.process.stdout is not None
        line: str = self.process.stdout.readline()
        return line

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, patience: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for the end; return the exit code, and the rest of what was printed."""
        out, err = self.process.communicate(timeout=patience)
        return self.process.returncode, out, err


@contextmanager
def running(*arguments: str, **options: Any) -> Iterator[Running]:
    """Start a command, and see that it has ended afterwards."""
    command = Running(*arguments, **options)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


# --- tail: what is printed -----------------------------------------------------------------------


def test_tail_prints_events_for_people(shared: Server) -> None:
    """An event is a line: time, channel, what happened, data; the rest goes to stderr."""
    with once_subscribed(shared, "grid.*.status") as publications:
        publications += [("grid.a.status", {"running": True}), ("grid.b.status", "贵州")]
        outcome = run("tail", shared.url, "grid.*.status", "--count", "2")

    assert outcome.exit_code == 0
    first, second = outcome.stdout.splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d\d\d grid\.a\.status message \{"running":true\}', first)
    assert second.endswith(' grid.b.status message "贵州"')
    assert outcome.stderr == "connected as ada\nsubscribed to grid.*.status\n"


@pytest.mark.parametrize("protocol", ["wsbus.v1", "zigquant-v2"])
def test_tail_prints_events_for_programs(shared: Server, protocol: str) -> None:
    """With ``--json`` each line is an object; order is kept, and patterns that overlap add nothing.

    What the server sends without being asked is none of it.
    """
    with once_subscribed(shared, "a.*", "a.b", "c") as publications:
        publications += [("a.b", 1), ("c", {"x": None}), ("a.c.d", [2]), ("c", 3)]
        outcome = run(
            *("tail", shared.url, "a.*", "a.b", "c", "a.*"),
            *("--json", "--count", "4", "--protocol", protocol),
        )

    assert outcome.exit_code == 0, outcome.stderr
    events = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [(event["channel"], event["data"]) for event in events] == [
        ("a.b", 1),
        ("c", {"x": None}),
        ("a.c.d", [2]),
        ("c", 3),
    ]
    assert all(event.keys() == {"channel", "event", "timestamp", "data"} for event in events)
    assert all(event["event"] == "message" for event in events)


HOSTILE: Final = Event(
    "a.\u202eb", "x\n\x1b[2J", msgspec.Raw(' {\n"a":  "\x9b\u2028"}'.encode()), 1e300
)


def test_nothing_that_is_published_reaches_the_terminal_as_a_command() -> None:
    """Control characters of any name, event or data are escaped, and an event is one line."""
    line = show(HOSTILE, None, as_json=False, in_color=False).decode()

    assert line == '--:--:--.--- a.\\u202eb x\\n\\u001b[2J {"a":"\\u009b\\u2028"}\n'


def test_escaped_data_mean_the_same() -> None:
    """Programs read what was published, gaps included."""
    gap = Gap(3, GapCause.SERVER)
    line = show(HOSTILE, gap, as_json=True, in_color=False).decode()

    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert json.loads(line) == {
        "channel": HOSTILE.channel,
        "event": HOSTILE.event,
        "timestamp": 1e300,
        "data": {"a": "\x9b\u2028"},
        "gap": {"lost": 3, "cause": "server"},
    }


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_only_a_terminal_gets_colour(shared: Server, variables: dict[str, str]) -> None:
    """What is printed to a terminal is coloured, unless ``NO_COLOR`` is set; a pipe gets text."""
    ours, theirs = os.openpty()
    try:
        with once_subscribed(shared, "tty") as publications:
            publications += [("tty", 1)]
            command = ("tail", shared.url, "tty", "--count", "1")
            with running(*command, stdout=theirs, env={"NO_COLOR": "", **variables}) as tail:
                assert tail.end()[0] == 0
        assert (b"\x1b[" in os.read(ours, 1000)) is not bool(variables)
    finally:
        os.close(ours)
        os.close(theirs)


def test_history_and_tail_know_positions(shared: Server) -> None:
    """``history`` prints what is kept; ``tail --since`` and ``--before`` go on from a position."""
    shared.publish("chat.cli", 1, 2, 3)

    people = run("history", shared.url, "chat.cli", "--limit", "2")
    programs = run("history", shared.url, "chat.cli", "--json")
    lines = [json.loads(line) for line in programs.stdout.splitlines()]
    places = ["{epoch}:{offset}".format(**line["position"]) for line in lines]
    before = run("history", shared.url, "chat.cli", "--before", places[1])
    tail = run("tail", shared.url, "chat.cli", "--since", places[1], "--count", "1")

    assert people.exit_code == programs.exit_code == before.exit_code == tail.exit_code == 0
    assert [line[-1] for line in people.stdout.splitlines()] == ["2", "3"]
    assert people.stderr == "there are older ones: see --before\n"
    assert [line["data"] for line in lines] == [1, 2, 3]
    assert before.stdout.endswith(" chat.cli message 1\n")
    assert tail.stdout.endswith(" chat.cli message 3\n")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("tail", "chat.cli", "--since", "old:7"), Exit.REFUSED, "POSITION_LOST: "),
        (("history", "chat.cli", "--after", "old:7"), Exit.REFUSED, "POSITION_LOST: "),
        (("history", "live"), Exit.REFUSED, "NO_HISTORY: "),
        (("tail", "chat.cli", "--since", "old"), Exit.UNREACHABLE, "EPOCH:OFFSET"),
    ],
)
def test_a_position_that_is_not_kept_is_refused(
    shared: Server, arguments: tuple[str, ...], code: Exit, why: str
) -> None:
    """The code comes first, for programs."""
    command, *rest = arguments
    outcome = run(command, shared.url, *rest)

    assert outcome.exit_code == code
    assert why in outcome.stderr


# --- tail: how it ends ---------------------------------------------------------------------------


def test_ctrl_c_is_how_tail_ends(server: Server) -> None:
    """Ctrl-C ends it with exit code 0 and without a word, and the server is told."""
    with running("tail", server.url, "a") as tail:
        tail.said("subscribed to a")
        server.publish("a", 1)
        assert tail.line().endswith(" a message 1\n")
        tail.interrupt()

        assert tail.end() == (0, "", "")
    assert server.held() == []


def test_a_closed_pipe_ends_it(server: Server) -> None:
    """``| head -1`` ends it at once, not only with the next event, and quietly."""
    with running("tail", server.url, "a") as tail:
        tail.said("subscribed to a")
        server.publish("a", 1)
        assert tail.line()
        assert tail.process.stdout is not None
        tail.process.stdout.close()

        assert tail.process.wait(PATIENCE) == 0
        assert tail.process.stderr is not None
        assert tail.process.stderr.read() == ""


def test_tail_ends_when_the_time_is_up(shared: Server) -> None:
    """``--timeout`` is an end like another; with ``--count`` it has exit code 4."""
    plain = run("tail", shared.url, "quiet", "--timeout", "0.3")
    counted = run("tail", shared.url, "quiet", "--timeout", "0.3", "--count", "2")

    assert (plain.exit_code, plain.stdout) == (0, "")
    assert counted.exit_code == 4
    assert counted.stderr.endswith("Error: fewer than 2 events within 0.3 s\n")


def test_a_pattern_that_is_refused_ends_it(shared: Server) -> None:
    """The server's code and words are a line of stderr, with exit code 1."""
    outcome = run("tail", shared.url, "public.a", "grid.*", token="guest")

    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert outcome.stderr == "connected as guest\nFORBIDDEN: grid.*: no grant covers this\n"


@contextmanager
def scripted(*answers: str) -> Iterator[str]:
    """Serve ``wsbus.v1`` by saying these things to the first request; give the address."""

    def handle(connection: ServerConnection) -> None:
        connection.send('{"type":"connected","data":{"connection_id":"c","subject":"u"}}')
        request = json.loads(connection.recv())
        for answer in answers:
            connection.send(answer.replace("ID", request["id"]))
        for _ in connection:
            pass

    with serve_script(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("wsbus.v1")]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{port_of(server)}/"
        finally:
            server.shutdown()
            thread.join()


def port_of(server: ScriptedServer) -> int:
    port: int = server.socket.getsockname()[1]
    return port


def test_a_pattern_that_is_taken_away_ends_it() -> None:
    """A subscription that the server ends later is a refusal, too: it would print nothing more."""
    held = '{"type":"%s","data":{"channels":["a"],"active_subscriptions":0}%s}'
    with scripted(held % ("subscribed", ',"id":"ID"'), held % ("unsubscribed", "")) as url:
        outcome = run("tail", url, "a", token="")

    assert outcome.exit_code == 1
    assert outcome.stderr.endswith("FORBIDDEN: a: the server took the subscription away\n")


def test_what_the_server_lost_is_told_where_it_is_missing() -> None:
    """A gap is a line on stderr, and in JSON a field of the event after it."""
    with scripted(
        '{"type":"subscribed","data":{"channels":["a"]},"id":"ID"}',
        '{"type":"gap","data":{"lost":7}}',
        '{"type":"event","channel":"inbox","event":"e","data":0}',
        '{"type":"gap","data":{"lost":2}}',
        '{"type":"event","channel":"a","event":"e","data":1}',
    ) as url:
        outcome = run("tail", url, "a", "--count", "1", "--json", token="")

    # Those that come together are told together.
    told = re.findall(r"(\d) events are missing here: the server's queue", outcome.stderr)
    assert sum(map(int, told)) == 9
    assert json.loads(outcome.stdout)["gap"] == {"lost": 9, "cause": "server"}


def test_without_reconnecting_it_ends_with_the_connection(server: Server) -> None:
    """With ``--no-reconnect`` a connection that ends is exit code 3; what had come is printed."""
    with running("tail", server.url, "a", "--no-reconnect") as tail:
        tail.said("subscribed to a")
        server.publish("a", *range(100))
        server.stop()
        code, out, err = tail.end()

    assert code == 3
    assert out.count("\n") == 100
    assert err.startswith("Error: the connection was lost; the server is shutting down (close code")
    assert err.count("\n") == 1


def test_a_server_that_answers_nothing_is_not_waited_for() -> None:
    """``--timeout`` bounds connecting, too: no subscription by then is exit code 2."""
    with scripted() as url:
        outcome = run("tail", url, "a", "--timeout", "0.3", token="")

    assert outcome.exit_code == 2
    assert outcome.stderr.endswith("Error: there was no subscription within 0.3 s\n")


def test_it_comes_again(server: Server, tmp_path: Path) -> None:
    """A server that restarts is found again, and the token is read from its file again."""
    token = tmp_path / "token"
    token.write_text("ada\n")
    with running("tail", server.url, "a", "--token-file", str(token), "--json") as tail:
        tail.said("subscribed to a")
        server.publish("a", 1)
        assert json.loads(tail.line())["data"] == 1
        token.write_text("bob\n")
        server.stop()
        assert "attempt 1 in" in tail.said("the server is shutting down")
        server.start()
        tail.said("connected again; what was published meanwhile without history is missing")
        with once_subscribed(server, "a") as publications:
            publications += [("a", 2)]
            event = json.loads(tail.line())

        async def subjects() -> list[str | None]:
            return [info.subject for info in server.bus.connections()]

        assert server.run(subjects) == ["bob"]
        tail.interrupt()
        assert tail.end()[0] == 0
    assert (event["data"], event["gap"]) == (2, {"lost": None, "cause": "reconnect"})


def test_who_does_not_read_holds_up_nothing(server: Server) -> None:
    """A pipe that is full stops neither pings nor reading: events are dropped, and that is told."""
    with running("tail", server.url, "a", "--json") as tail:
        tail.said("subscribed to a")

        async def waiting() -> int:
            (info,) = server.bus.connections()
            return info.queue_messages

        for _ in range(8):
            server.publish("a", *["x" * 200] * 500)
            while server.run(waiting):
                pass
        server.publish("a", "end")
        lost = 0
        last: Any = None
        while last != "end":
            event = json.loads(tail.line())
            last = event["data"]
            lost += event.get("gap", {}).get("lost", 0)
        tail.interrupt()
        code, _, err = tail.end()

    assert code == 0
    assert lost > 0
    assert "missing here: the output is read too slowly" in err


# --- call ----------------------------------------------------------------------------------------


def test_call_prints_the_result_as_json(shared: Server) -> None:
    """For people it is in lines, with ``--json`` in one; nothing is on stderr."""
    people = run("call", shared.url, "add", '{"a": 1, "b": 2.5}')
    stdin = run("call", shared.url, "add", "-", "--json", stdin='{"a": 1, "b": 2.5}\n')

    assert (people.exit_code, people.stdout, people.stderr) == (0, "3.5\n", "")
    assert (stdin.exit_code, stdin.stdout, stdin.stderr) == (0, "3.5\n", "")


def test_objects_are_laid_out_for_people(server: Server) -> None:
    """An object is indented, or in a line with ``--json``; both are JSON."""

    @server.bus.command("show")
    def show() -> dict[str, object]:
        return {"name": "贵\x9b", "legs": [1]}

    assert run("call", server.url, "show").stdout == (
        '{\n  "name": "贵\\u009b",\n  "legs": [\n    1\n  ]\n}\n'
    )
    assert run("call", server.url, "show", "--json").stdout == ('{"name":"贵\\u009b","legs":[1]}\n')


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["refuse"], "TOO_LATE: the shop is closed\n"),
        (["nothing"], "UNKNOWN_ACTION: "),
        (["add", '{"a":1}'], "VALIDATION_ERROR: "),
        (["wait", "--timeout", "0.1"], "TIMEOUT: wait: no answer came within 0.1 s\n"),
    ],
)
def test_a_command_that_fails_is_exit_code_1(
    shared: Server, arguments: list[str], says: str
) -> None:
    """Stderr has the code and the words, and stdout nothing."""
    outcome = run("call", shared.url, *arguments)

    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(says)
    assert outcome.stderr.count("\n") == 1


def test_a_connection_lost_before_the_answer_is_exit_code_3(shared: Server) -> None:
    """Nobody knows what became of the command, and that is said."""
    outcome = run("call", shared.url, "leave", '{"code": 1012}')

    assert (outcome.exit_code, outcome.stdout) == (3, "")
    assert "may have been carried out or not" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_ctrl_c_stops_waiting_for_an_answer(server: Server) -> None:
    """Ctrl-C ends a call with exit code 130, without a word."""
    with running("call", server.url, "wait", '{"text": "x"}') as call:
        with once_called(server):
            call.interrupt()

        assert call.end() == (130, "", "")


@contextmanager
def once_called(server: Server) -> Iterator[None]:
    """Go on when a command has begun."""
    pause = threading.Event()
    while not server.calls:
        pause.wait(0.005)  # Nobody tells when a client's request was carried out.
    yield


# --- pub -----------------------------------------------------------------------------------------


def test_pub_prints_the_receipt(shared: Server) -> None:
    """The receipt says for how many it was, and for how many it was accepted."""
    with running("tail", shared.url, "news", "--count", "2", "--json") as tail:
        tail.said("subscribed to news")
        people = run("pub", shared.url, "news", '{"a": [1, null]}', "--event", "born")
        programs = run("pub", shared.url, "news", "-", "--json", stdin='"on"')
        events = [json.loads(line) for line in tail.end()[1].splitlines()]

    assert (people.exit_code, people.stderr) == (0, "")
    assert people.stdout == "accepted for 1 of 1 receiver\n"
    assert json.loads(programs.stdout) == {"matched": 1, "accepted": 1}
    assert [(event["event"], event["data"]) for event in events] == [
        ("born", {"a": [1, None]}),
        ("message", "on"),
    ]


def test_pub_takes_many_lines(shared: Server) -> None:
    """With ``--lines`` each line is published in order, and blank ones are nothing."""
    with running("tail", shared.url, "many", "--count", "3", "--json") as tail:
        tail.said("subscribed to many")
        outcome = run("pub", shared.url, "many", "--lines", "--json", stdin='1\r\n\n"b"\n[3]')
        events = [json.loads(line)["data"] for line in tail.end()[1].splitlines()]

    assert outcome.exit_code == 0
    assert outcome.stderr == "connected as ada\n"
    assert outcome.stdout == '{"matched":1,"accepted":1}\n' * 3
    assert events == [1, "b", [3]]


@pytest.mark.parametrize(
    ("count", "limits"),
    [
        pytest.param(200, Limits(), id="default"),  # Two seconds' worth.
        pytest.param(2_000, Limits(messages_per_second=500), id="2,000 lines"),  # Four.
    ],
)
def test_many_lines_keep_within_the_rate_and_none_is_lost(
    count: int, limits: Limits, tmp_path: Path
) -> None:
    """A long file is published to its end, in order, and nothing is refused for the rate."""
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(count)))
    with serving(limits=limits) as server, path.open() as file:
        stack = AsyncExitStack()
        subscription = server.bus.subscribe("many", max_messages=count)
        events = server.run(lambda: stack.enter_async_context(subscription))

        async def take_all() -> list[Any]:
            got = [(await anext(events)).data for _ in range(count)]
            await stack.aclose()
            return got

        with running("pub", server.url, "many", "--lines", "--json", stdin=file) as pub:
            code, out, err = pub.end(MINUTES)
        got = server.run(take_all)

    assert (code, err) == (0, "connected as ada\n")
    assert out == '{"matched":1,"accepted":1}\n' * count
    assert got == list(range(count))


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_lines_are_published_as_they_come(server: Server, *, ends_by_itself: bool) -> None:
    """A pipe that stays open has its lines published at once; its end, or Ctrl-C, is the end."""
    with running("pub", server.url, "a", "--lines", stdin=subprocess.PIPE) as pub:
        stdin = pub.process.stdin
        assert stdin is not None
        for _ in range(2):
            stdin.write("1\n")
            stdin.flush()
            assert pub.line() == "accepted for 0 of 0 receivers\n"
        if not ends_by_itself:
            pub.interrupt()

        assert pub.end()[0] == (0 if ends_by_itself else 130)


def test_lines_may_come_from_a_file(shared: Server, tmp_path: Path) -> None:
    """A file is read to its end; its last line needs no newline."""
    path = tmp_path / "lines"
    path.write_text("1\n2")
    with path.open() as file, running("pub", shared.url, "a", "--lines", stdin=file) as pub:
        code, out, _ = pub.end()

    assert (code, out.count("\n")) == (0, 2)


@pytest.mark.parametrize(
    ("channel", "stdin", "code", "says"),
    [
        ("a", "1\nboo\n3\n", 2, "stopped at line 2; published before: 1\nError: line 2 is no JSON"),
        ("public.a", "1\n", 1, "stopped at line 1; published before: 0\nFORBIDDEN: no grant"),
    ],
)
def test_lines_stop_at_the_first_that_fails(
    shared: Server, channel: str, stdin: str, code: int, says: str
) -> None:
    """It is said which line it was, and how many were published before it."""
    token = "guest" if code == 1 else "ada"
    outcome = run("pub", shared.url, channel, "--lines", stdin=stdin, token=token)

    assert outcome.exit_code == code
    assert says in outcome.stderr


# --- what keeps any of them from talking ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "token", "says"),
    [
        (["call", "http://h/ws", "add"], "ada", "use ws:// in place of http://"),
        (["call", "example", "add"], "ada", "'example' is no address of a WebSocket"),
        (["call", "ws://127.0.0.1:1/ws", "add"], "ada", "is the server running, and the port"),
        (["call", "ws://no.invalid/ws", "add"], "ada", "no host 'no.invalid': is the address"),
        (["call", "wss://127.0.0.1:PORT/ws", "add"], "ada", "use ws:// in place of wss://"),
        (["call", "URL", "add"], "", "the server wants a token, and none was given"),
        (["call", "URL", "add"], "bad", "nobody knows this token"),
        (["tail", "URL", "a"], "bad", "nobody knows this token"),
        (["pub", "URL", "a", "1"], "bad", "nobody knows this token"),
        (["tail", "URL", "a..b"], "ada", "Error: "),
        (["tail", "URL", "a", "--protocol", "x"], "ada", "does not speak 'x'; it speaks wsbus.v1"),
        (["pub", "URL", "a.*", "1"], "ada", "Error: "),
        (["pub", "URL", "a", "1", "--protocol", "zigquant-v2"], "ada", "has no publish"),
        (["pub", "URL", "a"], "ada", "DATA is missing"),
        (["pub", "URL", "a", "1", "--lines"], "ada", "DATA is from standard input"),
        (["pub", "URL", "a", "on"], "ada", "DATA is no JSON"),
        (["call", "URL", "add", "[1]"], "ada", "PARAMS is no object"),
        (["call", "URL", "add", "{"], "ada", "PARAMS is no JSON"),
        (["call", "URL", "add", "--token", "a", "--token-file", "b"], "", "not both"),
        (["call", "URL", "add", "--token", " "], "ada", "the token is empty"),
        (["call", "URL", "add", "--token-file", "nowhere"], "ada", "nowhere cannot be read"),
        (["tail", "URL"], "ada", "Missing argument 'PATTERN...'"),
    ],
)
def test_what_keeps_it_from_talking_is_exit_code_2(
    shared: Server, arguments: list[str], token: str, says: str
) -> None:
    """A sentence says what is wrong, nothing is printed, and no token is repeated."""
    arguments = [
        part.replace("URL", shared.url).replace("PORT", str(shared.port)) for part in arguments
    ]
    outcome = run(*arguments, token=token)

    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "bad" not in outcome.stderr


def test_a_version_that_is_not_spoken_is_said() -> None:
    """It is said that the server does not speak it, and what it speaks, with exit code 2."""
    with serving(protocols=["zigquant-v2"]) as old:
        outcome = run("call", old.url, "add")

    assert outcome.exit_code == 2
    assert "does not speak this protocol" in outcome.stderr
    assert "spoken here: zigquant-v2" in outcome.stderr


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "there is no WebSocket at '/w': is the path right?"),
        (403, "no such path, or refused: Starlette and FastAPI answer 403 to both"),
    ],
)
@pytest.mark.parametrize("arguments", [("tail", "a"), ("pub", "a", "1"), ("call", "a")])
def test_a_wrong_path_is_said(status: int, says: str, arguments: tuple[str, ...]) -> None:
    """A server whose WebSocket is elsewhere says 404, or 403, and that is said in words."""

    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(status, "no\n")

    def handle(connection: ServerConnection) -> None:
        connection.close()

    with serve_script(handle, "127.0.0.1", 0, process_request=refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        command, *rest = arguments
        outcome = run(command, f"ws://127.0.0.1:{port_of(server)}/w", *rest)
        server.shutdown()
        thread.join()

    assert outcome.exit_code == 2
    assert says in outcome.stderr


def test_a_server_that_closes_at_once_was_asked_nothing() -> None:
    """A connection that ends before anything was asked is exit code 2, not 3."""

    def handle(connection: ServerConnection) -> None:
        connection.close(1012, "full")

    with serve_script(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("wsbus.v1")]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        outcome = run("call", f"ws://127.0.0.1:{port_of(server)}/", "add", token="")
        server.shutdown()
        thread.join()

    assert outcome.exit_code == 2
    assert "the server is restarting, or full (close code 1012: full)" in outcome.stderr


def test_tokens_come_from_three_places(shared: Server, tmp_path: Path) -> None:
    """An option counts for more than the variable, and a file's white space does not count."""
    path = tmp_path / "token"
    path.write_text("  eve\n")
    tail = ("tail", shared.url, "quiet", "--timeout", "2")

    assert run(*tail, token="ada").stderr.startswith("connected as ada\n")
    assert run(*tail, "--token", "bob").stderr.startswith("connected as bob\n")
    assert run(*tail, "--token-file", str(path)).stderr.startswith("connected as eve\n")


@pytest.mark.parametrize(
    "arguments",
    [["tail", "ws://h", "a"], ["pub", "ws://h", "a", "1"], ["call", "ws://h", "a"], ["--help"]],
)
def test_without_its_extra_it_says_what_to_install(arguments: list[str]) -> None:
    """Where websockets is missing, the exit status is 2 and stderr has the install line.

    The list of commands needs nothing.
    """
    program = (
        f"import sys; sys.modules['websockets'] = None; sys.argv = ['wsbus', *{arguments!r}];"
        "from wsbus.__main__ import main; main()"
    )

    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    if arguments == ["--help"]:
        assert outcome.returncode == 0
        assert "tail" in outcome.stdout
    else:
        says = f"Error: wsbus {arguments[0]} needs more: pip install 'wsbus[client]'\n"
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (2, "", says)


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("tail", [Exit.DONE, Exit.REFUSED, Exit.UNREACHABLE, Exit.LOST, Exit.TOO_FEW]),
        ("pub", [Exit.DONE, Exit.REFUSED, Exit.UNREACHABLE, Exit.LOST]),
        ("call", [Exit.DONE, Exit.REFUSED, Exit.UNREACHABLE, Exit.LOST]),
    ],
)
def test_the_help_lists_the_exit_codes_and_an_example(command: str, codes: list[Exit]) -> None:
    """Each exit code has a line of its own, and a command to copy stands unbroken."""
    lines = run(command, "--help").stdout.splitlines()

    assert [int(line.split()[0]) for line in lines if re.match(r" +\d  ", line)] == codes
    assert any(line.startswith(f"    wsbus {command} ws://127.0.0.1:8000/ws ") for line in lines)


# --- the guide -----------------------------------------------------------------------------------


def commands_of_the_guide() -> list[str]:
    guide = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [
        part.strip()
        for line in lines
        for part in re.split(r"\s\|\s|\$\(|\)\"", line)
        if part.strip().startswith("wsbus ")
    ]


@pytest.mark.parametrize("line", commands_of_the_guide())
def test_the_commands_of_the_guide_exist(line: str) -> None:
    """Each command line that the guide shows has options and arguments that are there."""
    _, name, *arguments = shlex.split(re.sub(r"\s[<>2]+\s?\S+", "", line))
    with click.Context(wsbus) as context:
        command = wsbus.get_command(context, name)
        if isinstance(command, click.Group):
            command = command.get_command(context, arguments.pop(0))
        assert command is not None
        command.make_context(name, arguments, parent=context)


def test_the_reference_has_all_exit_codes() -> None:
    """The table of the page is that of the program."""
    rows = re.findall(r"^\| (\d+) \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)

    assert [int(row) for row in rows] == list(Exit)
