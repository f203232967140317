"""The pages about the command line list the commands and options that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest

from tests.docs.documents import ROOT
from wsbus.cli import wsbus

REFERENCE: Final = ROOT / "docs" / "reference"
PAGE: Final = REFERENCE / "command-line.md"
BENCH: Final = REFERENCE / "bench.md"


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Give each command with its name, those of groups in place of the group."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from leaves(below, (*path, name))


COMMANDS: Final = dict(leaves(wsbus, ("wsbus",)))
BENCHES: Final = {n.removeprefix("wsbus bench "): c for n, c in COMMANDS.items() if " bench " in n}
OTHERS: Final = {name: command for name, command in COMMANDS.items() if " bench " not in name}


def sections(page: Path) -> dict[str, str]:
    """Return the sections of a page by their headings, without back quotes."""
    parts = re.split(r"^##+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip((name.replace("`", "") for name in parts[1::2]), parts[2::2], strict=True))


def rows_of(section: str) -> dict[str, str]:
    """Return the options of a section's tables, with their defaults."""
    rows: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`--.*?) \| (.*?) ?\|", section, re.MULTILINE):
        defaults = default.replace("`", "").split(", ")
        options = re.findall(r"--[a-z-]+", names)
        rows |= dict(
            zip(options, defaults if len(options) > 1 else [", ".join(defaults)], strict=True)
        )
    return rows


def options_of(command: click.Command) -> dict[str, str]:
    """Return the options of a command, with their defaults as the pages write them."""
    options = (each for each in command.params if isinstance(each, click.Option))
    return {option.opts[0]: default_of(option) for option in options}


def default_of(option: click.Option) -> str:
    """Return the default of an option as the pages write it."""
    default: Any = option.to_info_dict()["default"]
    if option.is_flag:
        return "off"
    if option.required:
        return "required"
    if default is None and (said := re.search(r"\[default: (\w+)\]", option.help or "")):
        return said[1]
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def test_every_command_has_a_section() -> None:
    """The page has a section for each command, in the order of the help, and no other."""
    listed = [name for name in sections(PAGE) if name.startswith("wsbus ")]

    assert listed == list(dict.fromkeys(re.sub(" bench .*", " bench", name) for name in COMMANDS))


@pytest.mark.parametrize("name", OTHERS)
def test_the_options_are_those_of_the_command(name: str) -> None:
    """A section has the options and defaults of its command, and the usage that it prints."""
    found = sections(PAGE)
    listed = rows_of(found[name])
    if "(#a-server)" in found[name]:
        listed |= rows_of(found["A server"])
    usage = COMMANDS[name].get_usage(click.Context(COMMANDS[name], info_name=name))

    assert listed == options_of(COMMANDS[name])
    assert usage.removeprefix("Usage: ") in found[name]


@pytest.mark.parametrize("name", BENCHES)
def test_the_options_of_a_measurement_are_on_its_page(name: str) -> None:
    """Each option of a measurement is in its section, or among those of all of them."""
    found = sections(BENCH)
    section = found["wsbus bench serve" if name == "serve" else name]
    own = rows_of(section)
    options = options_of(BENCHES[name])

    assert set(own) <= set(options)
    assert set(options) <= set(own) | set(rows_of(found["What is measured"])) | named(section)
    assert all(own[each].replace(",", "") == options[each].replace(",", "") for each in own)


def named(section: str) -> set[str]:
    """Return the options that the text of a section names."""
    return set(re.findall(r"`(--[a-z-]+)`", section))
