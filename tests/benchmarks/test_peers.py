from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import msgspec
import pytest

from tests.benchmarks.peers.__main__ import main
from tests.benchmarks.peers.plot import plot
from tests.benchmarks.peers.registry import MARKER, MESSAGE_BYTES, PEERS, RESPONDERS, missing
from tests.benchmarks.peers.results import Report, Row, Sample
from tests.benchmarks.peers.table import table

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = ["wsbus-websockets", "websockets", "aiohttp", "starlette", "websockets-echo"]
SMALL: Final = ["--rounds", "1", "--subscribers", "3", "--publications", "10", "--clients", "2"]
SVG: Final = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory into which a run of what the test extra brings has written."""
    directory = tmp_path_factory.mktemp("performance")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        main(
            [*NAMES, *SMALL, "--outstanding", "1", "4", "--calls", "10", "--write", str(directory)]
        )
    return directory


def report_in(directory: Path) -> Report:
    """Return what a run has kept."""
    return msgspec.json.decode((directory / "results.json").read_bytes(), type=Report)


def texts_of(svg: str) -> list[str]:
    """Return the texts of a plot, which must be XML."""
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_run_delivers_all_and_in_order(written: Path) -> None:
    """Every server is measured with every window, and loses and exchanges nothing."""
    report = report_in(written)

    assert [row.name for row in report.rows] == NAMES
    assert [row.failures for row in report.rows] == [[]] * len(NAMES)
    assert [sorted(row.fanout) for row in report.fanout] == [[1, 4]] * 4
    assert all((s.lost, s.reordered) == (0, 0) for row in report.fanout for s in row.samples)
    assert [len(row.calls) for row in report.calls] == [1]


def test_the_table_names_who_and_what_was_measured(written: Path) -> None:
    """The table has the machine, the versions, and a row for each server, wsbus in bold."""
    text, report = (written / "table.md").read_text(encoding="utf-8"), report_in(written)

    assert report.machine in text
    assert all(version in text for version in report.versions)
    assert [row.label for row in report.rows if f"\n| {row.label} |" not in text] == [
        "wsbus · websockets"
    ]
    assert "\n| **wsbus · websockets** |" in text


def test_the_plot_has_a_bar_for_each_figure(written: Path) -> None:
    """The plot is XML, its text is text, and every server has a bar in every panel."""
    svg, report = (written / "plot.svg").read_text(encoding="utf-8"), report_in(written)
    texts = texts_of(svg)

    assert [texts.count(row.label) for row in report.rows] == [2, 2, 2, 2, 1]
    assert texts.count("µs of server CPU per command") == 1


def test_what_was_kept_is_drawn_again(written: Path, tmp_path: Path) -> None:
    """``--render`` makes the same table and plot of the results without measuring."""
    (tmp_path / "results.json").write_bytes((written / "results.json").read_bytes())
    main(["--render", "--write", str(tmp_path)])

    for name in ("results.json", "table.md", "plot.svg"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_who_failed_is_told() -> None:
    """A server that lost messages or did not run is named below the table; it is not left out."""
    sample = Sample(cpu_us=1, rate=1, p50_ms=1, p99_ms=1, p999_ms=1, publications=1, lost=2)
    rows = [Row("a", "A", fanout={1: [sample]}), Row("b", "B", failures=["it ended"])]
    report = Report(
        machine="M", subscribers=1, message_bytes=1, clients=1, rounds=1, fanout=rows, missing=["C"]
    )
    text = table(report)

    assert "- A: 2 messages were lost and 0 came out of order." in text
    assert "- B: failed in 1 round, the last time because it ended." in text
    assert "Not installed, so not measured: C." in text
    assert texts_of(plot(report)).count("A") == 1


def test_names_are_unique() -> None:
    """A name on the command line means one server."""
    names = [peer.name for peer in PEERS] + [responder.name for responder in RESPONDERS]

    assert len(names) == len(set(names))


def test_all_are_asked_for_messages_of_one_size() -> None:
    """What is published holds the marker once, and the bare servers pass on 200 bytes of it."""
    payloads = {peer.name: peer.script.publish for peer in PEERS}

    assert {payload.count(MARKER) for payload in payloads.values()} == {1}
    assert {len(payloads[name]) for name in ("websockets", "picows", "litestar", "channels")} == {
        MESSAGE_BYTES
    }


def test_what_is_not_installed_has_a_remedy() -> None:
    """A distribution that is not there comes with the line that installs it."""
    assert missing(("wsbus",)) is None
    assert missing(("wsbus", "no-such-distribution")) == "pip install -e '.[benchmarks]'"
