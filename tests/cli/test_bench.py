from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.cli.running import PATIENCE, wsbus
from wsbus.bench.scripts import PROTOCOLS, bus_script, call_script

SMALL: Final = ["--rounds", "1", "--json"]


def bench(*arguments: str) -> dict[str, Any]:
    """Run a workload to its end; return the object it printed."""
    outcome = wsbus("bench", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == "", "there is no bar where nobody watches"
    report: dict[str, Any] = json.loads(outcome.stdout)
    assert report["machine"]["cores"] == str(len(os.sched_getaffinity(0)))
    return report


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve what is measured on a free port; give the process and the port."""
    command = [sys.executable, "-m", "wsbus", "bench", "serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            host, _, port = process.stdout.readline().strip().rpartition(":")
            assert host == "127.0.0.1"
            yield process, int(port)
        finally:
            process.kill()


def has_socket(files: Path) -> bool:
    """Tell whether a process has opened one, by the directory of its open files."""
    with suppress(FileNotFoundError):  # It closed one meanwhile.
        return any("socket" in str(file.readlink()) for file in files.iterdir())
    return False


def complete(row: dict[str, Any]) -> bool:
    """Tell whether everybody got everything, once and in order."""
    expected = row["publications"] * row["subscribers"]
    faults = row["lost"], row["reordered"], row["closed"]
    return row["deliveries"] == expected and faults == (0, 0, 0)


# --- servers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["websockets", "aiohttp", "starlette", "asgi"])
def test_every_server_lets_anybody_do_anything(server: str) -> None:
    """At /ws a stranger may subscribe, publish and call, in both dialects; Ctrl-C is the end."""
    with serving("--server", server) as (process, port):
        url = f"ws://127.0.0.1:{port}/ws"
        with (
            connect(url, subprotocols=[Subprotocol("wsbus.v1")], proxy=None) as v1,
            connect(url, subprotocols=[Subprotocol("zigquant-v2")], proxy=None) as zq,
        ):
            zq.send('{"type":"subscribe","channels":["a"]}')
            assert json.loads(zq.recv(PATIENCE))["type"] == "subscribed"
            v1.send('{"type":"publish","channel":"a","event":"m","data":{"n":1}}')
            assert json.loads(zq.recv(PATIENCE))["data"] == {"n": 1}
            zq.send('{"type":"command","action":"publish","params":{"channel":"a","data":{}}}')
            seen = [json.loads(zq.recv(PATIENCE))["type"] for _ in range(2)]
            assert sorted(seen) == ["event", "response"]
            for action in ("echo", "echo_sync"):
                call = {"type": "command", "id": "1", "action": action, "params": {"x": "y"}}
                zq.send(json.dumps(call))
                assert json.loads(zq.recv(PATIENCE))["data"] == {"x": "y"}
        process.send_signal(signal.SIGINT)

        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("payload", [200, 3000])
def test_a_message_is_as_long_as_told(protocol: str, payload: int) -> None:
    """What is delivered, and what answers a command, has the bytes that were asked for."""
    channels = ["bench", "another"]
    dialogue = bus_script(protocol, channels=channels, payload=payload)
    calls = call_script(protocol, "echo", payload=payload)
    requests = [dialogue.publish, *dialogue.also_publish, calls.publish]
    with serving() as (_, port):
        url = f"ws://127.0.0.1:{port}/ws"
        with connect(url, subprotocols=[Subprotocol(protocol)], proxy=None) as client:
            for request, _ in dialogue.hello:
                assert request is not None
                client.send(request.decode())
            seen: list[str] = []
            for request in requests:
                client.send(request.decode())
            while len(seen) < len(requests):
                messages = client.recv(PATIENCE, decode=True).split("\n")
                seen += [message for message in messages if '"n":"0000000000"' in message]

    assert [len(message) for message in seen] == [payload] * len(requests)


def test_serving_on_uvloop_pings_as_often_as_told() -> None:
    """``--uvloop`` runs on uvloop, and ``--ping-interval`` is the interval of the heartbeat."""
    pytest.importorskip("uvloop")
    with serving("--uvloop", "--ping-interval", "1") as (_, port):
        url = f"ws://127.0.0.1:{port}/ws"
        with connect(url, subprotocols=[Subprotocol("wsbus.v1")], proxy=None) as client:
            while json.loads(client.recv(PATIENCE))["type"] != "ping":
                pass


def test_a_port_that_is_taken_ends_serving_in_a_sentence() -> None:
    """A port that is taken is told with status 1 and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = wsbus("bench", "serve", "--port", str(port))

    assert outcome.returncode == 1
    assert outcome.stderr.startswith(f"Error: cannot listen on 127.0.0.1, port {port}: ")
    assert outcome.stdout == ""


# --- workloads ----------------------------------------------------------------------------------


def test_fanout_reaches_everybody_in_order() -> None:
    """With each window, every subscriber gets every publication once and in order."""
    options = ["--subscribers", "7", "--publications", "60", "--outstanding", "1"]
    report = bench("fanout", *options, "--outstanding", "16", "--server", "aiohttp", *SMALL)

    rows = report["results"]
    assert [(row["server"], row["case"]) for row in rows] == [("aiohttp", "1"), ("aiohttp", "16")]
    assert all(complete(row) for row in rows)
    assert all(row["cpu_us"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert report["settings"]["subscribers"] == 7


def test_fanout_checks_the_order_over_all_channels() -> None:
    """Publications on several channels in turn arrive in the order of their publication."""
    options = ["--channels", "20", "--subscribers", "5", "--publications", "200"]
    report = bench("fanout", *options, "--outstanding", "16", "--protocol", "zigquant-v2", *SMALL)

    assert all(complete(row) for row in report["results"])


def test_those_that_read_get_everything_while_others_never_read() -> None:
    """With a share that is stuck the others get all that they get without."""
    options = ["--stuck", "0.2", "--subscribers", "10", "--publications", "300"]
    report = bench("fanout", *options, "--outstanding", "16", *SMALL)

    assert [row["case"] for row in report["results"]] == ["16", "16, 2 stuck"]
    assert all(complete(row) and row["subscribers"] == 8 for row in report["results"])


def test_stress_keeps_the_pace() -> None:
    """A run by the clock takes as long as told, and everybody gets everything in order."""
    report = bench("stress", "--connections", "5", "--rate", "200", "--seconds", "1", "--json")

    (row,) = report["results"]
    assert row["publications"] == 200
    assert row["seconds"] >= 199 / 200
    assert complete(row)


def test_rooms_get_only_what_is_theirs() -> None:
    """A publication to one of many channels is one delivery, to one room and to all in turn."""
    options = ["--connections", "30", "--fewest", "3", "--publications", "90"]
    report = bench("rooms", *options, *SMALL)

    rows = report["results"]
    assert [row["case"] for row in rows] == ["one of 3", "one of 30", "each of 3", "each of 30"]
    assert all(row["deliveries"] == 90 and row["lost"] == 0 for row in rows)
    assert rows[0]["ratio"] == rows[2]["ratio"] == 1
    assert all(row["ratio"] > 0 for row in rows)


@pytest.mark.parametrize("protocol", ["wsbus.v1", "zigquant-v2"])
def test_every_command_is_answered(protocol: str) -> None:
    """Each call has one answer, from an async function and from a plain one."""
    report = bench("rpc", "--calls", "50", "--protocol", protocol, *SMALL)

    cases = [f"{action}, {window}" for action in ("echo", "echo_sync") for window in (1, 16)]
    assert [row["case"] for row in report["results"]] == cases
    assert all(row["deliveries"] == 50 and row["lost"] == 0 for row in report["results"])


def test_idle_connections_answer_pings_and_stay() -> None:
    """Nobody is closed, and there are pings just where there are to be."""
    options = ["--connections", "5", "--seconds", "2.5", "--ping-interval", "1"]
    quiet, pinged = bench("idle", *options, "--json")["results"]

    assert (quiet["pings"], quiet["closed"], pinged["closed"]) == (0, 0, 0)
    assert pinged["pings"] >= 5
    assert quiet["rss_per_connection"] is not None


def test_match_measures_a_growing_table() -> None:
    """Figures are told for a thousand patterns, and for as many as were wanted."""
    report = bench("match", "--patterns", "2000", "--json")

    ours = [row for row in report["results"] if row["table"] == "wsbus"]
    assert [row["patterns"] for row in ours] == [1000, 2000]
    assert all(row["cold_us"] > row["cached_ns"] / 1000 > 0 for row in ours)


def test_a_table_is_for_people() -> None:
    """Without ``--json`` the figures are a table on stdout, with what was measured above it."""
    outcome = wsbus("bench", "match", "--patterns", "1000")

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("match: patterns 1,000")
    assert "cold µs" in outcome.stdout


def test_what_is_terminated_leaves_no_server() -> None:
    """SIGTERM ends a measurement, and the server that was started for it."""
    command = [sys.executable, "-m", "wsbus", "bench", "stress", "--seconds", "600"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        end = time.monotonic() + 60
        while not (started := children.read_text().split()):
            assert time.monotonic() < end, "it started no server"
            time.sleep(0.01)  # the kernel reports no child of another process,
        files = Path(f"/proc/{started[0]}/fd")
        while not has_socket(files):
            assert time.monotonic() < end, "its server does not listen"
            time.sleep(0.01)  # nor that one listens
        process.terminate()

        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(started[0]), 0)


# --- servers that are running -------------------------------------------------------------------


def test_a_running_server_is_measured_with_its_process() -> None:
    """``--url`` finds the process that listens there, and measures its CPU time."""
    options = ["--subscribers", "3", "--publications", "30", "--outstanding", "4", *SMALL]
    with serving() as (_, port):
        report = bench("fanout", "--url", f"ws://127.0.0.1:{port}/ws", *options)

    (row,) = report["results"]
    assert complete(row)
    assert row["cpu_us"] > 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--url", "http://127.0.0.1:8000/ws"], 1, "a URL such as ws://127.0.0.1:8000/ws"),
        (["--url", "ws://127.0.0.1:99999/ws"], 1, "out of range"),
        (["--url", "ws://127.0.0.1:1/ws", "--server", "aiohttp"], 2, "without --server"),
        (["--pid", "1"], 2, "--pid goes with --url"),
        (["--server", "apache"], 2, "'apache' is not one of"),
        (["--protocol", "stomp"], 2, "'stomp' is not one of"),
        (["--subscribers", "100000000"], 1, "open files"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments: list[str], status: int, says: str) -> None:
    """Options that make no sense are told in words, with status 1 or 2 and no traceback."""
    outcome = wsbus("bench", "fanout", *arguments)

    assert outcome.returncode == status
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


def test_a_port_where_nobody_listens_is_one_sentence() -> None:
    """A closed port ends a measurement with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    outcome = wsbus("bench", "fanout", "--url", f"ws://127.0.0.1:{port}/ws")

    expected = f"Error: no connection to 127.0.0.1, port {port}: Connection refused\n"
    assert (outcome.returncode, outcome.stderr) == (1, expected)


def test_a_refused_handshake_is_one_sentence() -> None:
    """A server that has nothing there ends a measurement with status 1."""
    with serving("--server", "aiohttp") as (_, port):
        outcome = wsbus("bench", "rpc", "--url", f"ws://127.0.0.1:{port}/elsewhere")

    expected = "Error: the handshake was refused: HTTP/1.1 404 Not Found\n"
    assert (outcome.returncode, outcome.stderr) == (1, expected)


@pytest.mark.parametrize(
    ("command", "missing", "server", "says"),
    [
        *(
            (command, "websockets", "websockets", "pip install 'wsbus[cli,websockets]'")
            for command in ("serve", "fanout")
        ),
        ("serve", "aiohttp", "aiohttp", "pip install 'wsbus[cli,aiohttp]'"),
        ("serve", "starlette", "starlette", "pip install 'wsbus[demo]'"),
        ("serve", "uvicorn", "asgi", "pip install 'wsbus[demo]'"),
    ],
)
def test_without_its_extra_a_server_says_what_to_install(
    command: str, missing: str, server: str, says: str
) -> None:
    """Where an extra is missing, the exit status is 2 and stderr has the install line."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None;"
        f"sys.argv = ['wsbus', 'bench', {command!r}, '--server', {server!r}];"
        "from wsbus.__main__ import main; main()"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    expected = (2, "", f"Error: the server {server} needs more: {says}\n")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == expected


def test_without_uvloop_it_says_what_to_install() -> None:
    """``--uvloop`` without uvloop ends with status 2."""
    program = (
        "import sys; sys.modules['uvloop'] = None;"
        "sys.argv = ['wsbus', 'bench', 'serve', '--uvloop'];"
        "from wsbus.__main__ import main; main()"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    expected = "Error: --uvloop needs more: pip install uvloop\n"
    assert (outcome.returncode, outcome.stderr) == (2, expected)
