"""The pages that explain agree with the code, and with each other, on figures and names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.documents import ROOT
from wsbus.core.client.liveness import Liveness
from wsbus.core.errors import CloseCode
from wsbus.core.events import GapCause
from wsbus.core.heartbeat import HeartbeatPolicy
from wsbus.core.limits import MAX_DEPTH, MAX_PARTS, NAMES_PER_MESSAGE, Limits
from wsbus.core.recovery import MAX_REPLAY, MAX_REPLAY_BYTES
from wsbus.server.directory import PROBE_SECONDS
from wsbus.server.services import SWEEP_SECONDS

DOCS: Final = ROOT / "docs"
EXPLANATION: Final = DOCS / "explanation"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows(text: str, header: str) -> list[list[str]]:
    """Return the rows of the table that begins so, without marks of emphasis and code."""
    assert f"| {header}" in text
    lines = text.partition(f"| {header}")[2].split("\n")[2:]
    found = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    assert found
    return [[re.sub(r"[`*]", "", cell).strip() for cell in line[1:-1].split("|")] for line in found]


def test_the_figures_of_the_first_page_were_measured() -> None:
    """Each figure on the first page stands on the page of measurements, or in its table."""
    page = text_of(DOCS / "index.md").partition("## Three figures")[2].partition("## ")[0]
    measured = text_of(EXPLANATION / "performance.md")
    measured += text_of(EXPLANATION / "performance" / "table.md")
    figures = re.findall(r"^\*\*(\S+) ?.*\*\*$", page, re.MULTILINE)

    assert len(figures) == 3
    for figure in [*figures, "37.8", "175"]:
        assert figure in page
        assert re.search(rf"(?<![\d.,]){re.escape(figure)}", measured), figure


def test_every_cause_of_a_gap_is_explained() -> None:
    """The page of guarantees explains each cause, and uses no other one."""
    page = text_of(EXPLANATION / "guarantees.md")

    assert {row[0] for row in rows(page, "cause |")} == set(GapCause)
    assert set(re.findall(r"gap: (\w+)", page)) <= set(GapCause)


def test_the_notes_of_the_guarantees_are_those_of_the_table() -> None:
    """Each number in the table has a note, and each note stands in the table."""
    page = text_of(EXPLANATION / "guarantees.md")
    table = page.partition("| what fails |")[2].partition("*Refused*")[0]
    notes = re.findall(r"^(\d+)\. ", page, re.MULTILINE)

    assert {*re.findall(r"\[(\d+)\]", table)} == {*notes}


def test_the_guarantees_have_the_times_of_the_code() -> None:
    """The moments at which a failure is noticed follow from the defaults."""
    page = text_of(EXPLANATION / "guarantees.md")
    within = {row[0]: row[1] for row in rows(page, "what fails |")}
    client, heartbeat = Liveness(), HeartbeatPolicy()
    assert heartbeat.timeout is not None

    assert within["A reader takes nothing [2]"] == f"{Limits().write_deadline:g} s"
    hole = next(name for name in within if name.startswith("A client's link is a black hole"))
    assert within[hole] == f"{client.interval + client.timeout:g} s"
    frozen = next(name for name in within if name.startswith("A client is frozen"))
    assert within[frozen] == f"{heartbeat.timeout + SWEEP_SECONDS:g} s"
    assert within["The store is emptied, or evicts [12]"] == f"{PROBE_SECONDS:g} s"
    limits = Limits()
    assert f"{limits.queue_messages:,} publications or {limits.queue_bytes >> 20} MiB" in page
    assert f"at most {MAX_REPLAY} of them" in page
    assert f"{MAX_REPLAY_BYTES >> 20} MiB for one request" in page


@pytest.mark.parametrize("page", ["guarantees.md", "security.md"])
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    """Each file of tests that a page refers to exists."""
    named = re.findall(r"`(tests/[\w/.]+)`", text_of(EXPLANATION / page))

    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_index_of_its_folder() -> None:
    """The index of the explanation lists each page once."""
    listed = re.findall(r"^[a-z][a-z-]*$", text_of(EXPLANATION / "index.md"), re.MULTILINE)

    assert sorted(listed) == sorted(p.stem for p in EXPLANATION.glob("*.md") if p.stem != "index")


def test_the_threats_have_the_bounds_of_the_code() -> None:
    """The page of security names the bounds that the code has."""
    page, limits = text_of(EXPLANATION / "security.md"), Limits()

    for text in (
        f"`auth_timeout` ({limits.auth_timeout:g} s)",
        f"for {limits.rate_abuse_seconds:g} s is closed ({CloseCode.RATE_ABUSE:d})",
        f"{limits.max_message_bytes >> 10} KiB, {MAX_DEPTH} levels, {MAX_PARTS:,} parts",
        f"{limits.max_subscriptions} subscriptions, {limits.max_names} names in a request",
        f"{NAMES_PER_MESSAGE} names count as one message",
        f"a cut after {limits.write_deadline:g} s",
        f"the connection is closed ({CloseCode.TOKEN_EXPIRED:d})",
    ):
        assert text in page


def test_the_comparison_is_dated_and_names_each_peer() -> None:
    """Each peer of the table has a paragraph that says when it is the better choice."""
    page = text_of(EXPLANATION / "comparison.md")
    table, _, choices = page.partition("## When to choose them")
    peers = re.findall(r"^\| \*\*([^*]+)\*\*", table, re.MULTILINE)

    assert re.search(r"^State of \d+ \w+ \d{4}:", page, re.MULTILINE)
    assert len(peers) == 10
    bold = " ".join(re.findall(r"^\*\*(.*?)\*\*", choices, re.MULTILINE))
    assert [peer for peer in peers[1:] if peer.removesuffix("'s SSE") not in bold] == []
