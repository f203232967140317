"""Standard input and output within an event loop: nothing blocks it.

A full stdout must not delay pings, and an idle stdin must not delay the exit. Where the
system cannot poll files and pipes (Windows), threads wait for them.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import BinaryIO, Final

from anyio import sleep_forever, to_thread, wait_readable, wait_writable

__all__ = ["Output", "read_lines"]

_READ_BYTES: Final = 64 * 1024
_MAX_LINE_BYTES: Final = 4 << 20


class Output:
    """A stream for bytes, written without blocking the loop."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream: Final = stream
        self._fd: Final = _fd_of(stream)
        if self._fd is not None:
            self._poll: Final = select.poll()
            self._poll.register(self._fd, select.POLLOUT)

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting while the stream is full.

        Raises:
            BrokenPipeError: The reader has closed the pipe.
        """
        if self._fd is None:
            await to_thread.run_sync(self._write, data)
            return
        left = memoryview(data)
        while left:
            if not self._poll.poll(0):
                await wait_writable(self._fd)
            with suppress(BlockingIOError):  # Another process may have made it non-blocking.
                # A pipe that is ready takes so many bytes without blocking.
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    async def wait_abandoned(self) -> None:
        """Wait until the reader closes the pipe; without a pipe, wait until cancelled."""
        if self._fd is not None and stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            await wait_readable(
                self._fd
            )  # The writing end is readable when the other end is closed.
        else:
            await sleep_forever()


async def read_lines(stream: BinaryIO) -> AsyncIterator[bytes]:
    """Yield lines as they come, without their ends; the last one may have none.

    Raises:
        ValueError: One is longer than 4 MiB.
    """
    fd = _fd_of(stream)
    if fd is None:
        while line := await to_thread.run_sync(stream.readline, abandon_on_cancel=True):
            yield line.rstrip(b"\r\n")
        return
    rest = b""
    while data := await _read(fd):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
        if len(rest) > _MAX_LINE_BYTES:
            raise ValueError("a line is longer than 4 MiB")
    if rest:
        yield rest


async def _read(fd: int) -> bytes:
    while True:
        with suppress(PermissionError):  # epoll's error for a file, which is always ready.
            await wait_readable(fd)
        with suppress(BlockingIOError):
            return os.read(fd, _READ_BYTES)


def _fd_of(stream: BinaryIO) -> int | None:
    """Return the file descriptor to poll; None if it cannot be polled, as all files on Windows."""
    if not hasattr(select, "poll"):
        return None
    try:
        return stream.fileno()
    except OSError:  # io.UnsupportedOperation: the stream has no file descriptor.
        return None
