"""The JavaScript client: what it weighs, its types, and its tests in Node."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import wsbus
from tests.web.bundle import FLAGS, SOURCE, bundle, bundle_http, declarations
from tests.web.running import ROOT, WEB, find_tsc, run_node_tests
from wsbus.web import ASSETS

LIMIT = 12 * 1024
"""Bytes. Up to 9 kB are the client without history; marks, positions, history and publications that
are sent again take the rest. The way over HTTP has a file of its own, for pages that need it."""
HTTP_LIMIT = 4 * 1024
PRESENCE_LIMIT = 3 * 1024


def tsc(*arguments: str | Path) -> None:
    """Run the TypeScript compiler; fail with what it complains of."""
    outcome = subprocess.run(
        [find_tsc(), *FLAGS, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if outcome.returncode != 0:
        pytest.fail(outcome.stdout + outcome.stderr, pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["websockets", "aiohttp", "starlette"])
def test_with_a_bus(require_command: Callable[[str, str], str], adapter: str) -> None:
    """With a real server on each adapter, restarted and cut, the client keeps its promises."""
    run_node_tests(require_command("node", "nodejs"), "bus.test.mjs", ADAPTER=adapter)


@pytest.mark.slow
def test_with_a_bus_in_messagepack(require_command: Callable[[str, str], str]) -> None:
    """Every promise holds for a client that speaks MessagePack, too."""
    node = require_command("node", "nodejs")
    run_node_tests(node, "bus.test.mjs", ADAPTER="websockets", CODEC="msgpack")


def test_messagepack(require_command: Callable[[str, str], str]) -> None:
    """The codec keeps what JSON has no form for, and refuses what is wrong."""
    run_node_tests(require_command("node", "nodejs"), "msgpack.test.mjs")


def test_presence(require_command: Callable[[str, str], str]) -> None:
    """A watch knows the connections on a channel, whatever happens in between."""
    run_node_tests(require_command("node", "nodejs"), "presence.test.mjs")


def test_with_a_server_that_misbehaves(require_command: Callable[[str, str], str]) -> None:
    """Nothing that a server sends, or fails to send, breaks the client; nothing hangs."""
    run_node_tests(require_command("node", "nodejs"), "puppet.test.mjs")


def test_over_http(require_command: Callable[[str, str], str]) -> None:
    """Behind a proxy that refuses upgrades, and one that holds streams back, nothing is missed."""
    run_node_tests(require_command("node", "nodejs"), "http.test.mjs")


def test_the_session(require_command: Callable[[str, str], str]) -> None:
    """The pure part: every state with every input, and any order of them."""
    run_node_tests(require_command("node", "nodejs"), "session.test.mjs")


def test_a_tab_that_falls_behind(require_command: Callable[[str, str], str]) -> None:
    """What it asks for, with a clock that the test moves, and a server that keeps to it."""
    run_node_tests(require_command("node", "nodejs"), "credit.test.mjs")


def test_it_is_small() -> None:
    """The file as it is shipped is small once gzipped."""
    assert len(gzip.compress((WEB / "wsbus.js").read_bytes(), 9)) <= LIMIT
    assert len(gzip.compress((WEB / "wsbus-http.js").read_bytes(), 9)) <= HTTP_LIMIT
    assert len(gzip.compress((WEB / "wsbus-presence.js").read_bytes(), 9)) <= PRESENCE_LIMIT


def test_it_is_made_of_its_sources() -> None:
    """The shipped module is what the bundler makes of the sources."""
    made = bundle()

    assert made == (WEB / "wsbus.js").read_text(encoding="utf-8"), "python -m tests.web.bundle"
    assert bundle_http() == (WEB / "wsbus-http.js").read_text(encoding="utf-8")


def test_it_needs_nothing() -> None:
    """It is one module: it evaluates no text, and imports only the way over HTTP, and that late."""
    text = (WEB / "wsbus.js").read_text(encoding="utf-8")
    text = text.replace('import("./wsbus-http.js")', "", 1)

    assert [word for word in ("import ", "import(", "require(", "eval(") if word in text] == []


def test_its_types_are_strict_and_those_declared() -> None:
    """The compiler finds no fault at its strictest, and writes the shipped declarations."""
    made = declarations()

    assert made == (WEB / "wsbus.d.ts").read_text(encoding="utf-8"), "python -m tests.web.bundle"


@pytest.mark.parametrize("name", ["wsbus-msgpack", "wsbus-presence", "wsbus-webrtc"])
def test_the_types_of_what_lies_beside_it_are_strict(name: str) -> None:
    """The compiler finds no fault in it, and its declarations are those of what it exports."""
    tsc("--noEmit", WEB / f"{name}.js")
    shipped = (WEB / f"{name}.d.ts").read_text(encoding="utf-8")
    source = (WEB / f"{name}.js").read_text(encoding="utf-8")
    assert re.findall(r"export (?:declare )?const (\w+)", shipped) == re.findall(
        r"export const (\w+)", source
    )


def test_no_type_is_any() -> None:
    """Neither the sources nor the declarations use the type that stops all checks."""
    files = [*SOURCE.glob("*.js"), WEB / "wsbus.d.ts"]
    use = re.compile(r"[{<(:|&=,?]\s*any\b|\bany\s*[\[\]|&}>)]")

    assert len(files) > 10
    assert [file.name for file in files if use.search(file.read_text(encoding="utf-8"))] == []


def test_its_types_serve_their_users() -> None:
    """A program that uses everything type-checks; the misuses in it are found."""
    tsc("--noEmit", "--noUnusedLocals", ROOT / "tests" / "web" / "usage.ts")


def test_the_guides_scripts_are_scripts(
    require_command: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Every script in the guides parses as a module."""
    node = require_command("node", "nodejs")
    pages = ("javascript-client", "presence", "react", "vue-svelte", "webrtc")
    guides = [(ROOT / "docs" / "how-to" / f"{page}.md").read_text("utf-8") for page in pages]
    scripts = re.findall(r"^```js\n(.*?)^```", "".join(guides), re.MULTILINE | re.DOTALL)
    assert len(scripts) > 10
    for number, script in enumerate(scripts):
        file = tmp_path / f"{number}.mjs"
        file.write_text(script, encoding="utf-8")
        subprocess.run([node, "--check", file], check=True, timeout=30)


def test_the_package_is_ready() -> None:
    """What ``package.json`` names is there, under the version of the Python package."""
    package = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    entries = [entry for entry in package["exports"].values() if isinstance(entry, dict)]
    shipped = {file.name for glob in package["files"] for file in WEB.glob(glob)}

    assert package["version"] == wsbus.__version__
    assert len(entries) > 2
    named = [Path(file).name for entry in entries for file in entry.values()]
    assert shipped.issuperset([*named, *ASSETS])
    assert "dependencies" not in package
