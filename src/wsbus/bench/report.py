"""The output: a bar during the run, then one JSON object or a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["machine", "progress_bar", "show"]

_PLACES: Final = {"cached_ns": 0, "p50_ms": 1, "p99_ms": 1, "p999_ms": 1, "seconds": 1}


@contextmanager
def progress_bar(what: str, total: float) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal; yield a function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        auto_refresh=False,  # A thread would take time from the load's core.
    ) as progress:
        task = progress.add_task(what, total=total)

        def advance(steps: int) -> None:
            progress.update(task, advance=steps, refresh=True)

        yield advance


def machine() -> dict[str, str]:
    """Return the machine and the versions with which the figures were measured."""
    return {
        "wsbus": version("wsbus"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def show(
    workload: str,
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    *,
    as_json: bool,
    columns: dict[str, str],
) -> None:
    """Print the figures on stdout.

    Args:
        workload: The workload's name.
        rows: Figures by name, the same in every row.
        settings: Settings by name of the option.
        as_json: One object with everything; else a table.
        columns: The figures in the table, and their headings.
    """
    if as_json:
        report = {"workload": workload, "machine": machine(), "settings": settings}
        click.echo(msgspec.json.encode(report | {"results": rows}))
        return
    console = Console(highlight=False, soft_wrap=True)
    described = ", ".join(f"{name} {_text(name, value)}" for name, value in settings.items())
    console.print(f"{workload}: {described}", markup=False)
    cells = [[_text(name, row[name]) for name in columns] for row in rows]
    lines = [list(columns.values()), *cells]
    table = _table(lines)
    if console.is_terminal and _width(console, table) > console.width:
        table = _table([list(line) for line in zip(*lines, strict=True)])
    console.width = _width(console, table)  # The terminal wraps long lines; nothing is cut.
    console.print(table)


def _table(lines: Sequence[Sequence[str]]) -> Table:
    """Return a table of a heading and rows, texts on the left, numbers on the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(lines[0]):
        is_text = all(line[number][:1].isalpha() for line in lines[1:])
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _text(name: str, value: object) -> str:
    match value:
        case None:
            return "–"
        case float() if name.endswith("_share"):
            return f"{value:.1%}"
        case float() if abs(value) >= 1000:
            return f"{value:,.0f}"
        case float():
            return f"{value:.{_PLACES.get(name, 2)}f}"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case _:
            return str(value)
