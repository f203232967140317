"""What a run found, as it is kept in ``results.json``: every measurement, not only the medians."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

_CPUINFO: Final = Path("/proc/cpuinfo")


class Sample(msgspec.Struct, frozen=True):
    """One measurement of a fan-out."""

    cpu_us: float
    """Server CPU per delivery, in microseconds."""
    rate: int
    """Deliveries per second of wall time."""
    p50_ms: float
    """Publication to last delivery: half of them took no longer."""
    p99_ms: float
    p999_ms: float
    publications: int
    lost: int = 0
    """Messages, warming up included."""
    reordered: int = 0
    """The same."""


class Call(msgspec.Struct, frozen=True):
    """One measurement of commands and their answers."""

    cpu_us: float
    """Server CPU per round trip, in microseconds."""
    rate: int
    """Round trips per second of wall time."""
    p50_ms: float
    p99_ms: float


class Row(msgspec.Struct, frozen=True):
    """All measurements of one server."""

    name: str
    label: str
    versions: list[str] = []
    is_ours: bool = False
    note: str = ""
    fanout: dict[int, list[Sample]] = {}
    """By publications outstanding."""
    calls: list[Call] = []
    failures: list[str] = []
    """Why there are fewer measurements than rounds, if so."""

    def add(self, outstanding: int, sample: Sample) -> None:
        """Take another measurement of a window."""
        self.fanout.setdefault(outstanding, []).append(sample)

    @property
    def samples(self) -> list[Sample]:
        """All measurements of a fan-out."""
        return [sample for samples in self.fanout.values() for sample in samples]


class Report(msgspec.Struct, frozen=True):
    """One run of all."""

    machine: str
    subscribers: int
    message_bytes: int
    clients: int
    """That call commands, each with one outstanding."""
    rounds: int
    fanout: list[Row] = []
    calls: list[Row] = []
    missing: list[str] = []
    """What was not installed, and how to install it."""

    @property
    def rows(self) -> list[Row]:
        """Those of the fan-out and those of the calls."""
        return [*self.fanout, *self.calls]

    @property
    def versions(self) -> list[str]:
        """What was measured, each once."""
        return sorted({text for row in self.rows for text in row.versions})

    @property
    def windows(self) -> list[int]:
        """The numbers of publications outstanding that were measured."""
        return sorted({window for row in self.fanout for window in row.fanout})


class Figure(NamedTuple):
    """A median and what it is the median of."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Reduce the values of several rounds."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])


def cpu(samples: Iterable[Sample | Call]) -> Figure:
    """Return the server's CPU time per delivery or round trip, in microseconds."""
    return Figure.of(sample.cpu_us for sample in samples)


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def machine() -> str:
    """Name the machine: its processor, cores, kernel, and Python."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    model = fields.get("model name", platform.machine())
    kind = ", virtual" if "hypervisor" in fields.get("flags", "").split() else ""
    distribution = _distribution()
    return (
        f"{model} ({os.cpu_count()} cores{kind}), {distribution}, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()} with asyncio's own loop"
    )


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
