"""Facts of the process: its id and versions, how long it has run, and the memory it takes."""

from __future__ import annotations

import os
import platform
import socket
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from .samples import ProcessInfo

__all__ = ["process_info"]

_IMPORTED_AT: Final = time.monotonic()


def process_info() -> ProcessInfo:
    """Return the facts of this process now."""
    return ProcessInfo(
        wsbus=_version(),
        python=platform.python_version(),
        pid=os.getpid(),
        host=_host(),
        seconds=time.monotonic() - _started_at(os.getpid()),
        memory=_memory(),
    )


@cache
def _version() -> str:
    try:
        return version("wsbus")
    except PackageNotFoundError:  # Packed into an executable.
        return "of unknown version"


@cache
def _host() -> str:
    return socket.gethostname()


@cache
def _started_at(pid: int) -> float:
    """Return the monotonic second at which a process started.

    Where there is no ``/proc`` it is the second at which the console was imported.
    """
    try:
        # Field 22, in ticks since the system was started (proc_pid_stat(5)); the second may hold
        # spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        ticks, since = int(fields[19]), time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic() - (since - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):
        return _IMPORTED_AT


def _memory() -> int | msgspec.UnsetType:
    try:
        resident = Path("/proc/self/statm").read_text().split()[1]
        return int(resident) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return msgspec.UNSET
