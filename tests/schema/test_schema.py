"""What ``wsbus schema`` prints: read by the programs that it is for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from tests.schema.declarations import Status, bus
from tests.web.running import ROOT, WEB, find_asyncapi, find_tsc
from wsbus import Bus, UsageError
from wsbus.schema import asyncapi, json_schema, typescript

HERE = Path(__file__).parent


def schema_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``wsbus schema``."""
    return subprocess.run(
        [sys.executable, "-m", "wsbus", "schema", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_official_parser_takes_the_asyncapi_document(
    require_command: Callable[[str, str], str],
) -> None:
    """It finds channels, a reply for each command, and how tokens are sent; and has no warning."""
    node, parser = require_command("node", "nodejs"), find_asyncapi()
    made = schema_of("tests.schema.declarations:bus")
    assert made.returncode == 0, made.stderr
    parsed = subprocess.run(
        [node, str(HERE / "parse.mjs"), parser],
        input=made.stdout,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert parsed.returncode == 0, parsed.stdout + parsed.stderr
    found = json.loads(parsed.stdout)
    assert set(found["channels"]) == {"grid.{id}.status", "shop.{id}"}
    commands = ("grid_stop", "add", "order", "untyped")
    assert set(found["replies"]) == {f"command.{name}" for name in commands}
    assert set(found["schemes"]) == {"bearer", "query"}


def test_users_of_the_javascript_client_get_types(tmp_path: Path) -> None:
    """The compiler takes what is right, and nothing that the server would refuse."""
    tsc = find_tsc()
    (tmp_path / "bus.ts").write_text(typescript(bus))
    for source in (WEB / "wsbus.js", WEB / "wsbus.d.ts", HERE / "usage.ts"):
        (tmp_path / source.name).write_text(source.read_text())
    options = [
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "esnext",
        "--lib",
        "es2022,dom",
    ]
    checked = subprocess.run(
        [tsc, *options, "--module", "preserve", "usage.ts", "bus.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_the_json_schema_has_each_type_once() -> None:
    """Types with names are definitions; a type that holds itself refers to itself."""
    document = json_schema(bus)
    definitions = document["$defs"]
    assert document["channels"]["grid.{id}.status"] == {"update": {"$ref": "#/$defs/Status"}}
    assert definitions["Status"]["properties"]["parents"]["items"] == {"$ref": "#/$defs/Status"}
    assert definitions["Status"]["properties"]["progress"]["maximum"] == 1
    assert set(definitions) == {"Status", "Order", "Stop"}
    assert document["commands"]["add"]["params"]["required"] == ["a"]
    assert document["commands"]["order"]["result"] == {"$ref": "#/$defs/Order"}
    assert schema_of("--format", "jsonschema", "tests.schema.declarations:bus").stdout == (
        msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    )


def test_two_types_of_one_name_are_told_apart() -> None:
    """Msgspec gives them longer names; of pydantic's there is no way to choose, so it says so."""

    def status() -> type[msgspec.Struct]:
        return msgspec.defstruct("Status", [("other", int)], module="elsewhere")

    both = Bus()
    both.channel("a", Status)
    both.channel("b", status())
    assert len(json_schema(both)["$defs"]) == 2
    models: list[Any] = [
        pydantic.create_model("Same", x=(int, ...)),
        pydantic.create_model("Same", y=(int, ...)),
    ]
    for letter, model in zip("cd", models, strict=True):
        both.channel(letter, model)
    with pytest.raises(UsageError, match="named Same"):
        asyncapi(both)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("tests.schema.declarations", "MODULE:BUS"),
        ("tests.schema.nowhere:bus", "no module tests.schema.nowhere"),
        ("tests.schema.declarations:buss", "has no buss"),
        ("tests.schema.declarations:endpoint", "a Endpoint, and no Bus"),
        ("tests.schema.declarations:add", "without arguments"),
        ("tests.schema.broken:bus", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_what_is_no_bus_is_a_sentence_and_not_a_traceback(target: str, says: str) -> None:
    """The exit code is that of a wrong command line."""
    failed = schema_of(target)
    assert (failed.returncode, "Traceback" in failed.stderr) == (2, False)
    assert says in failed.stderr


def test_a_function_may_make_the_bus() -> None:
    """As applications with factories have it; an empty bus is described, too."""
    made = schema_of("wsbus:Bus", "--title", "Shop", "--app-version", "2")
    document = json.loads(made.stdout)
    assert document["info"] == {"title": "Shop", "version": "2"}
    assert document["channels"] == {}
