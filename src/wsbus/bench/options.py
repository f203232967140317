"""Options that the commands of ``wsbus bench`` share, and what the commands do with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from .load import FanoutResult
    from .target import MeasuredServer

__all__ = [
    "COUNT",
    "SERVERS",
    "aimed",
    "measured",
    "outstanding_option",
    "payload_option",
    "protocol_option",
    "reported",
    "rounds_option",
]

_F = TypeVar("_F", bound=Callable[..., Any])

SERVERS: Final = ("websockets", "aiohttp", "starlette", "asgi")
COUNT: Final = click.IntRange(1)


@contextmanager
def reported() -> Iterator[None]:
    """Report errors in a sentence, with exit status 2 if a package is missing, else 1."""
    from .errors import BenchError, NotInstalled

    try:
        yield
    except BenchError as exc:
        failure = click.ClickException(str(exc))
        failure.exit_code = 2 if isinstance(exc, NotInstalled) else 1  # type: ignore[misc]  # as in click
        raise failure from exc


protocol_option: Final = click.option(
    "--protocol",
    type=click.Choice(("wsbus.v1", "zigquant-v2")),
    default="wsbus.v1",
    show_default=True,
)
payload_option: Final = click.option(
    "--payload",
    type=COUNT,
    default=200,
    show_default=True,
    help="Bytes of a message as it is delivered; not less than what is around its padding.",
)
rounds_option: Final = click.option(
    "--rounds", type=COUNT, default=3, show_default=True, help="Report the medians of so many."
)


def outstanding_option(*default: int) -> Callable[[_F], _F]:
    """Return the option for the window."""
    return click.option(
        "--outstanding",
        type=COUNT,
        multiple=True,
        default=default,
        show_default=True,
        help="How many are under way at any time; may be repeated.",
    )


def aimed(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose servers; the command gets ``targets`` and ``as_json``."""

    @functools.wraps(command)
    def run(
        *, names: Sequence[str], url: str | None, pid: int | None, uvloop: bool, **options: Any
    ) -> None:
        with reported():
            command(targets=_targets(names, url, pid, uvloop=uvloop), **options)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--pid", type=COUNT, help="Of the server at --url, if it cannot be found."),
        click.option("--url", help="A server that is running: ws://127.0.0.1:8000/ws."),
        click.option("--uvloop", is_flag=True, help="Start servers on uvloop."),
        click.option(
            "--server",
            "names",
            type=click.Choice(SERVERS),
            multiple=True,
            help="What to start and measure; may be repeated.  [default: websockets]",
        ),
    ):
        run = option(run)
    return run


def _targets(
    names: Sequence[str], url: str | None, pid: int | None, *, uvloop: bool
) -> Sequence[MeasuredServer]:
    from .servers import require
    from .target import Own, running_at

    if url is not None:
        if names or uvloop:
            raise click.UsageError("--url is measured as it is, without --server and --uvloop")
        return [running_at(url, pid)]
    if pid is not None:
        raise click.UsageError("--pid goes with --url")
    chosen = names or ("websockets",)
    for name in chosen:
        require(name, uvloop=uvloop)
    return [Own(name=name, options=["--uvloop"] if uvloop else []) for name in chosen]


def measured(
    targets: Sequence[MeasuredServer],
    cases: Sequence[str],
    measure: Callable[[MeasuredServer, str, Callable[[int], None]], FanoutResult],
    *,
    rounds: int,
    steps: int,
) -> list[dict[str, Any]]:
    """Return a row of medians for each case of each server.

    Args:
        targets: The servers.
        cases: Names of the rows of one server.
        measure: Called for each round, with a function that advances the bar.
        rounds: Number of rounds.
        steps: Steps by which each round advances the bar.
    """
    import msgspec

    from .report import progress_bar
    from .workloads import median_of

    rows = []
    for target in targets:
        for case in cases:
            with progress_bar(f"{target.name}, {case}", steps * rounds) as advance:
                results = [measure(target, case, advance) for _ in range(rounds)]
            row = {"server": target.name, "case": case}
            rows.append(row | msgspec.structs.asdict(median_of(results)))
    return rows
