"""A server's process: its CPU time, its memory, its id and its core."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from .errors import BenchError

__all__ = [
    "Server",
    "cores",
    "cpu_seconds",
    "listener_pid",
    "need_files",
    "pinned",
    "resident_bytes",
    "running",
]

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
_SPARE_FILES: Final = 100


class Server(NamedTuple):
    """A server that accepts connections."""

    host: str
    port: int
    pid: int | None
    """None: unknown, so that CPU time and memory are unknown, too."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in all its threads, in seconds.

    It is precise to the microsecond; ``/proc/PID/stat`` counts ticks of 10 ms. Threads that have
    ended do not count.

    Raises:
        BenchError: There is no such process, or this user must not look at it.
    """
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError as exc:
        raise BenchError(f"the CPU time of process {pid} cannot be read: {exc.strerror}") from exc


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds (RSS).

    Raises:
        BenchError: There is no such process.
    """
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError as exc:
        raise BenchError(f"the memory of process {pid} cannot be read: {exc.strerror}") from exc
    return pages * os.sysconf("SC_PAGE_SIZE")


def listener_pid(port: int) -> int | None:
    """Return the process that listens on a TCP port; None if not exactly one can be found.

    Processes that this user must not look at are not found.
    """
    links = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    found = {pid for pid in _pids() if links & set(_open_files(pid))} if links else set()
    return found.pop() if len(found) == 1 else None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                yield str(entry.readlink())


def cores() -> tuple[int, int]:
    """Return the core for a server and the core for the load; the same if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this process, and its children, on one core while the context is open."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def need_files(count: int) -> None:
    """Raise the limit of open files, of this process and those it starts, if it is too low.

    Raises:
        BenchError: The operating system does not allow so many.
    """
    needed = count + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise BenchError(f"{count} connections need {needed} open files; `ulimit -Hn` is {hard}")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def running(command: Sequence[str], *, core: int | None = None) -> Iterator[Server]:
    """Run a server while the context is open, and end it with SIGTERM, or SIGKILL after 5 s.

    Args:
        command: It must print ``host:port``, or the port alone, as its first line when it is
            ready. The process itself must be the server, since it is the one measured.
        core: The only core that it may use; None: those of this process.

    Raises:
        BenchError: It ended, or printed something else.
    """
    before = os.sched_getaffinity(0)
    if core is not None:  # Before it is started: threads keep the core that they began with.
        os.sched_setaffinity(0, {core})
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # the caller's own
    except OSError as exc:
        raise BenchError(f"{command[0]} cannot be started: {exc.strerror}") from exc
    finally:
        os.sched_setaffinity(0, before)
    try:
        assert process.stdout is not None
        yield _server(process, process.stdout.readline().strip())
    finally:
        _end(process)


def _server(process: subprocess.Popen[str], line: str) -> Server:
    host, _, port = line.rpartition(":")
    if not port.isdecimal():
        code = process.wait() if not line else process.poll()
        said = f"printed {line!r}, no host:port" if line else f"ended with status {code}"
        raise BenchError(f"the server {said}")
    return Server(host.strip("[]") or "127.0.0.1", int(port), process.pid)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
