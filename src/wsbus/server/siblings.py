"""Finds out that several processes serve one address, each with a bus that is alone.

Servers such as uvicorn, gunicorn, hypercorn and granian start workers as children of one process.
The workers inherit one listening socket, or each opens one of its own for the same address
(``SO_REUSEPORT``). Linux shows both in ``/proc``; elsewhere nothing is looked for.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from anyio import sleep
from anyio.to_thread import run_sync

from .._log import about

__all__ = ["count_workers", "warn_of_siblings"]

logger: Final = logging.getLogger("wsbus.bus")

_LOOKS: Final = (1.0, 4.0, 10.0)
"""Seconds to each look from the one before: servers listen after the bus has started, and start
their workers one after the other."""
_MAX_FILES: Final = 256
"""Open files that are looked at in each process: servers open their sockets early."""
_PROC: Final = Path("/proc")


async def warn_of_siblings() -> None:
    """Log a line if other processes serve the address of this one; never raises.

    The one that was started last logs it: it sees all the others.
    """
    if sys.platform != "linux":
        return
    for seconds in _LOOKS:
        await sleep(seconds)
        with suppress(Exception):  # What /proc shows is not worth an error.
            workers, is_last = await run_sync(count_workers, abandon_on_cancel=True)
            if workers > 1 and is_last:
                logger.warning(
                    "%d processes serve one address, and each has a bus of its own: a publication "
                    "reaches only the clients of its own process; give all of them one broker, as "
                    "in docs/how-to/workers.md, or run one worker",
                    workers,
                    extra=about("no_broker", count=workers),
                )
                return


class _Process(NamedTuple):
    parent: int
    began: int
    """Ticks since the system was started."""


def count_workers() -> tuple[int, bool]:
    """Return how many processes serve an address of this one, and whether this is the last one.

    Only processes with the same parent count: the parent itself holds the sockets, too.
    """
    own = _listening()
    if not own:
        return 1, True
    pid = os.getpid()
    self = _process(pid)
    addresses = _addresses()
    places = {addresses.get(inode, inode) for inode in own}
    last, workers = (self.began, pid), 1
    for other in _pids():
        with suppress(OSError):  # It has ended, or is another user's.
            process = _process(other)
            if other == pid or process.parent != self.parent:
                continue
            sockets = [inode for _, inode in _sockets(other)]
            if any(addresses.get(inode, inode) in places for inode in sockets):
                workers += 1
                last = max(last, (process.began, other))
    return workers, last == (self.began, pid)


def _pids() -> list[int]:
    return [int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()]


def _process(pid: int) -> _Process:
    # Fields 4 and 22 (proc_pid_stat(5)); the second may hold spaces.
    fields = (_PROC / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return _Process(int(fields[1]), int(fields[19]))


def _sockets(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the descriptors and inodes of the sockets of a process."""
    files = _PROC / f"{pid}/fd"
    for fd in sorted(int(each.name) for each in files.iterdir())[:_MAX_FILES]:
        with suppress(OSError):
            kind, _, inode = str((files / str(fd)).readlink()).partition(":")
            if kind == "socket":
                yield fd, inode.strip("[]")


def _listening() -> set[str]:
    """Return the inodes of the sockets on which this process listens."""
    found = set()
    for fd, inode in _sockets(os.getpid()):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                each = socket.socket(fileno=fd)
                try:
                    if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found.add(inode)
                finally:
                    each.detach()
    return found


def _addresses() -> dict[str, str]:
    """Return the local address of each TCP socket that listens, by its inode."""
    found = {}
    for name in ("tcp", "tcp6"):
        with suppress(OSError), (_PROC / "self/net" / name).open() as table:
            next(table, None)
            for line in table:
                fields = line.split()
                if fields[3] != "0A":  # Those that listen come first.
                    break
                found[fields[9]] = f"{name} {fields[1]}"
    return found
