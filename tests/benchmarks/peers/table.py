"""The tables of a report, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .results import Figure, Report, Row, Sample, cpu, number


def table(report: Report) -> str:
    """Return the page's tables: what each server was, what it cost, how fast it was."""
    return "\n".join([*_introduction(report), *_fanout(report), *_calls(report), *_notes(report)])


def _introduction(report: Report) -> Iterator[str]:
    yield "<!-- Written by `python -m tests.benchmarks.peers`. -->"
    yield ""
    yield f"{report.machine}. One core for the server, another for the load."
    yield f"{report.subscribers:,} subscribers of one channel."
    yield f"Messages of {report.message_bytes} bytes, no compression."
    yield f"Medians of {report.rounds} rounds; in brackets the lowest and the highest."
    yield f"Versions: {', '.join(report.versions)}."
    yield ""


def _fanout(report: Report) -> Iterator[str]:
    windows, rows = report.windows, by_cost(row for row in report.fanout if row.fanout)
    if not rows:
        return
    yield "Server CPU in microseconds per delivery, by publications outstanding:"
    yield ""
    yield from _grid(
        ["server", *map(str, windows)],
        ([_name(row), *(_cpu_in(row, window) for window in windows)] for row in rows),
    )
    for window in windows:
        yield (
            f"{window} outstanding: thousands of deliveries per second, and milliseconds from a"
            " publication to its last delivery, in half, in 99 % and in 99.9 % of all cases:"
        )
        yield ""
        measured = [row for row in rows if window in row.fanout]
        yield from _grid(
            ["server", "k/s", "p50", "p99", "p99.9"],
            ([_name(row), *_speed(row.fanout[window])] for row in measured),
        )


def _calls(report: Report) -> Iterator[str]:
    rows = sorted((row for row in report.calls if row.calls), key=lambda row: cpu(row.calls))
    if not rows:
        return
    yield (
        f"Round trips of a command, {report.clients:,} clients with one outstanding each: server"
        " CPU in microseconds, thousands per second, milliseconds to the answer:"
    )
    yield ""
    yield from _grid(
        ["server", "CPU", "k/s", "p50", "p99"],
        ([_name(row), *_call(row)] for row in rows),
    )


def _notes(report: Report) -> Iterator[str]:
    notes = [f"- {row.label}: {text}." for row in report.rows for text in _remarks(row)]
    if notes:
        yield from [*notes, ""]
    if report.missing:
        yield f"Not installed, so not measured: {', '.join(report.missing)}."
        yield ""


def _remarks(row: Row) -> Iterator[str]:
    if row.note:
        yield row.note
    lost, late = sum(s.lost for s in row.samples), sum(s.reordered for s in row.samples)
    if lost or late:
        yield f"{lost:,} messages were lost and {late:,} came out of order"
    if row.failures:
        count = len(row.failures)
        rounds = "round" if count == 1 else "rounds"
        yield f"failed in {count} {rounds}, the last time because {row.failures[-1]}"


def by_cost(rows: Iterable[Row]) -> list[Row]:
    """Return the rows in order of their CPU time with most publications outstanding."""
    return sorted(rows, key=lambda row: cpu(row.fanout[max(row.fanout)]))


def _cpu_in(row: Row, window: int) -> str:
    return _with_range(cpu(row.fanout[window])) if window in row.fanout else ""


def _speed(samples: Sequence[Sample]) -> list[str]:
    columns = zip(*((s.rate / 1e3, s.p50_ms, s.p99_ms, s.p999_ms) for s in samples), strict=True)
    rate, *times = (Figure.of(column).median for column in columns)
    return [f"{rate:,.0f}", *map(number, times)]


def _call(row: Row) -> list[str]:
    columns = zip(*((c.rate / 1e3, c.p50_ms, c.p99_ms) for c in row.calls), strict=True)
    rest = (number(Figure.of(column).median) for column in columns)
    return [_with_range(cpu(row.calls)), *rest]


def _with_range(figure: Figure) -> str:
    return f"{number(figure.median)} ({number(figure.low)}–{number(figure.high)})"


def _name(row: Row) -> str:
    return f"**{row.label}**" if row.is_ours else row.label


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
