"""The dashboard and the alerts ask for what is there."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest

from wsbus import Bus
from wsbus.prometheus import BusCollector

DOCS: Final = Path(__file__).parents[2] / "docs"
BOARD: Final[dict[str, Any]] = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
GUIDE: Final = (DOCS / "how-to" / "metrics.md").read_text(encoding="utf-8")
QUERIES: Final = [
    *(target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())),
    *(each["definition"] for each in BOARD["templating"]["list"] if "definition" in each),
]
UNITS: Final = {"seconds": {"s"}, "bytes": {"bytes"}, "total": {"ops", "short"}}
"""The units of Grafana for what the last word of a metric's name says."""
ALERTS: Final = re.findall(r"^ +expr: (.+)$", GUIDE, re.MULTILINE)
COUNTERS: Final = {
    f"{metric.name}_total" for metric in BusCollector(Bus()).describe() if metric.type == "counter"
}
GAUGES: Final = {metric.name for metric in BusCollector(Bus()).describe() if metric.type == "gauge"}


@pytest.mark.parametrize("query", sorted({*QUERIES, *ALERTS}))
def test_each_query_names_what_is_scraped(query: str) -> None:
    """Each name of wsbus is one of its metrics; counters are read as rates, gauges are not."""
    names = re.findall(r"\bwsbus_\w+", query)
    rates = re.findall(r"\b(?:rate|increase)\((wsbus_\w+)", query)

    assert names
    assert set(names) <= COUNTERS | GAUGES
    assert sorted(rates) == sorted(name for name in names if name in COUNTERS)


@pytest.mark.parametrize("query", sorted({*QUERIES, *ALERTS}))
def test_each_query_asks_for_labels_that_are_there(query: str) -> None:
    """They are those that Prometheus adds, and the reasons of what was dropped."""
    labels = re.findall(r'(\w+)=~?"', query)
    reasons = "|".join(re.findall(r'reason=~"([^"]+)"', query)).split("|")

    kept = re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|without) \(([^)]*)\)", query)))

    assert set(labels) | set(kept) <= {"job", "instance", "reason"}
    assert set(reasons) <= {"", "evicted", "conflated", "refused", "discarded"}
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


def test_every_query_of_a_panel_can_be_narrowed() -> None:
    """The choice of jobs and processes counts for each of them."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            names = re.findall(r"\bwsbus_\w+", target["expr"])
            narrowed = re.findall(
                r'wsbus_\w+\{job=~"\$job", instance=~"\$instance"', target["expr"]
            )
            assert len(names) == len(narrowed), panel["title"]


def test_every_panel_is_in_its_place() -> None:
    """Ids and titles differ, each panel says what it shows, and none lies upon another."""
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    titles = [(panel["type"], panel["title"]) for panel in panels]

    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len(set(titles)) == len(titles)
    assert all(panel["description"] for panel in panels)
    for one, other in combinations([panel["gridPos"] for panel in BOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(place["x"] + place["w"] <= 24 for place in (p["gridPos"] for p in panels))


def test_every_panel_has_the_unit_of_what_it_shows() -> None:
    """Seconds are shown as time, bytes as sizes, and what counts up as a rate."""
    for panel in BOARD["panels"]:
        if panel["type"] == "row":
            continue
        unit = panel["fieldConfig"]["defaults"]["unit"]
        names = re.findall(r"\bwsbus_\w+", " ".join(each["expr"] for each in panel["targets"]))
        assert names, panel["title"]
        for name in names:
            known = UNITS.get(name.removesuffix("_total").rpartition("_")[2])
            known = known or UNITS.get(name.rpartition("_")[2], {"short"})
            assert unit in known, f"{panel['title']}: {name} in {unit}"


def test_every_query_of_a_panel_asks_the_chosen_prometheus() -> None:
    """Queries of one panel have ids of their own, and so have panels and variables sources."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = [each for each in BOARD["templating"]["list"] if each["type"] == "query"]
    assert [each["datasource"] for each in variables] == [chosen] * len(variables)
    for panel in BOARD["panels"]:
        targets = panel.get("targets", [])
        assert panel["type"] == "row" or (targets and panel["datasource"] == chosen)
        assert all(each["datasource"] == chosen for each in targets)
        assert len({each["refId"] for each in targets}) == len(targets)


def test_every_alert_says_what_to_do() -> None:
    """The table has a row for each, and no others."""
    named = re.findall(r"alert: (\w+)", GUIDE)

    assert re.findall(r"^\| `([A-Z]\w+)` \|", GUIDE, re.MULTILINE) == named
    assert len(ALERTS) == len(named)
