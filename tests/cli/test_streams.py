from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from anyio import create_task_group, fail_after, move_on_after, to_thread

from wsbus.cli.stdio import Output, read_lines


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Give both ends of a pipe: to read from, and to write to."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as source, os.fdopen(writing, "wb", 0) as sink:
        yield source, sink


async def collect(stream: BinaryIO) -> list[bytes]:
    with fail_after(10):
        return [line async for line in read_lines(stream)]


async def test_more_than_a_pipe_holds_is_written_as_it_is_read(
    pipe: tuple[BinaryIO, BinaryIO],
) -> None:
    """Writing waits for the reader, and everything arrives in order."""
    source, sink = pipe
    data = os.urandom(300_000)
    read = b""

    def drain() -> None:
        nonlocal read
        while len(read) < len(data):
            read += source.read(1 << 16)

    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(Output(sink).write, data)
            await to_thread.run_sync(drain)
    assert read == data


async def test_a_full_pipe_blocks_nobody_else(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    """While nobody reads, writing waits, can be cancelled, and the event loop goes on."""
    _, sink = pipe
    with fail_after(10), move_on_after(0.05) as given_up:
        await Output(sink).write(bytes(300_000))
    assert given_up.cancelled_caught


async def test_a_reader_that_goes_is_noticed_at_once(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    """The other end of a pipe is closed: that is known without writing, and writing fails."""
    source, sink = pipe
    output = Output(sink)
    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(output.wait_abandoned)
            source.close()
        with pytest.raises(BrokenPipeError):
            await output.write(b"x")


async def test_a_file_is_never_abandoned(tmp_path: Path) -> None:
    """Files take everything, and nobody can go away from them."""
    path = tmp_path / "out"
    with path.open("wb", 0) as sink:
        output = Output(sink)
        await output.write(b"ab")
        with move_on_after(0.02) as waiting:
            await output.wait_abandoned()
    assert waiting.cancelled_caught
    assert path.read_bytes() == b"ab"


async def test_lines_come_whole(pipe: tuple[BinaryIO, BinaryIO], tmp_path: Path) -> None:
    """However the bytes arrive, lines are whole, and the last one needs no newline."""
    source, sink = pipe
    for part in (b"a", b"b\r\nc", b"\n\nd"):
        sink.write(part)
    sink.close()
    path = tmp_path / "lines"
    path.write_bytes(b"ab\r\nc\n\nd")

    assert await collect(source) == [b"ab", b"c", b"", b"d"]
    with path.open("rb") as file:
        assert await collect(file) == [b"ab", b"c", b"", b"d"]


async def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    """Nobody can fill the memory with one line."""
    path = tmp_path / "zeros"
    with path.open("wb") as sink:
        sink.truncate(5 << 20)

    with path.open("rb") as file, pytest.raises(ValueError, match="longer than 4 MiB"):
        await collect(file)


async def test_where_nothing_can_be_polled_threads_wait(
    pipe: tuple[BinaryIO, BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``select.poll``, as on Windows, lines are read and data written all the same."""
    monkeypatch.delattr(select, "poll")
    source, sink = pipe
    with fail_after(10):
        await Output(sink).write(b"ab\nc\r\nd")
        sink.close()
        assert [line async for line in read_lines(source)] == [b"ab", b"c", b"d"]
