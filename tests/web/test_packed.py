"""The npm package, packed as it would be published, in the tools that users have."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest

from tests.schema.declarations import bus
from tests.web.bundle import FLAGS
from tests.web.packed import FIXTURE, Project
from tests.web.running import WEB, find_esbuild, find_tsc
from wsbus.schema import typescript

IMPORTS = """
import { channel, Client } from "wsbus";
import { msgpack } from "wsbus/msgpack";
import { watchPresence } from "wsbus/presence";
import { useEvents } from "wsbus/react";
const client = new Client("ws://localhost/ws", { codec: msgpack });
console.log([channel("room", "a b"), client.state, typeof watchPresence, typeof useEvents].join());
"""
PRINTED = "room.a%20b,idle,function,function"


@pytest.fixture(scope="module")
def project(
    require_command: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project that has installed the package; all tests share it."""
    node = require_command("node", "nodejs")
    require_command("npm", "npm")
    made = Project(tmp_path_factory.mktemp("project"), node)
    (made.place / "main.js").write_text(IMPORTS)
    return made


def test_it_holds_what_users_need_and_no_more(project: Project) -> None:
    """The modules with their types; neither Python nor the sources of the page's own."""
    shipped = {file.name for file in (project.place / "node_modules" / "wsbus").iterdir()}
    expected = {file.name for file in [*WEB.glob("wsbus*.js"), *WEB.glob("wsbus*.d.ts")]}
    assert shipped == {*expected, "package.json"}


def test_node_imports_it(project: Project) -> None:
    """Every entry is a module that Node runs as it is."""
    assert project.run(project.node, "main.js").strip() == PRINTED


@pytest.mark.parametrize("tool", ["vite", "esbuild", "webpack"])
def test_it_is_bundled(project: Project, tool: str) -> None:
    """Each bundler finds every entry, and the file that is loaded late; its module runs."""
    if tool == "vite":
        bundled = "export default { ssr: { noExternal: true } };"
        (project.place / "vite.config.js").write_text(bundled)
        project.vite("--ssr", "main.js", "--outDir", tool)
    elif tool == "esbuild":
        options = ("--bundle", "--splitting", "--format=esm", "--log-level=warning")
        project.run(find_esbuild(), "main.js", *options, f"--outdir={tool}")
    else:
        shutil.copy(FIXTURE / "webpack.cjs", project.place)
        project.run(project.node, "webpack.cjs", str(project.packages / "webpack"))
    built = [*(project.place / tool).rglob("*.*js")]
    assert any("text/event-stream" in file.read_text("utf-8") for file in built)  # wsbus-http.js
    [entry] = [file for file in built if file.stem == "main"]
    assert project.run(project.node, str(entry)).strip() == PRINTED


def test_users_of_the_hooks_get_types(project: Project) -> None:
    """The compiler takes what is right, with the types of a bus and without, and nothing else."""
    shutil.copy(FIXTURE / "usage.tsx", project.place)
    (project.place / "bus.ts").write_text(typescript(bus, module="wsbus"))
    modules = ("--module", "esnext", "--moduleResolution", "bundler", "--jsx", "react-jsx")
    strict = ("--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom,dom.iterable")
    project.run(find_tsc(), *strict, *modules, "usage.tsx", "bus.ts")


def test_the_types_of_the_hooks_are_strict(project: Project) -> None:
    """The compiler finds no fault in them, and their declarations are those of what they export."""
    package = project.place / "node_modules" / "wsbus"
    source = (package / "wsbus-react.js").read_text("utf-8")
    project.run(find_tsc(), *FLAGS, "--noEmit", "node_modules/wsbus/wsbus-react.js")
    shipped = (package / "wsbus-react.d.ts").read_text("utf-8")
    exported = re.findall(r"export const (\w+)", source)
    assert exported == list(dict.fromkeys(re.findall(r"declare function (\w+)", shipped)))
