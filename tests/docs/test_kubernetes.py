"""The manifest for Kubernetes is whole, and its numbers fit those of the bus."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

import pytest
from starlette.testclient import TestClient

from tests.docs.documents import HOW_TO, running
from wsbus import Bus, HeartbeatPolicy

PAGE: Final = HOW_TO / "kubernetes.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")


def default_of(function: Any, parameter: str) -> float:
    """Return the default of a parameter."""
    default: float = inspect.signature(function).parameters[parameter].default
    return default


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    """All YAML of the page."""
    yaml = pytest.importorskip("yaml", reason="pip install -e '.[docs]'")
    blocks = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [each for block in blocks for each in yaml.safe_load_all(block)]


@pytest.fixture(scope="module")
def pod(documents: list[Any]) -> Any:
    """The pod of the Deployment."""
    return documents[0]["spec"]["template"]["spec"]


def test_the_service_reaches_the_pods(documents: list[Any]) -> None:
    """Labels and ports of the Deployment and the Service agree."""
    deployment, service = (each for each in documents if "kind" in each)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    names = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert [deployment["kind"], service["kind"]] == ["Deployment", "Service"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(names)
    assert f"--port={names['http']}" in container["command"]


def test_the_grace_period_is_long_enough(pod: Any) -> None:
    """It holds the sleep, the request that drains, and the stop of the bus; each holds its part."""
    script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    compile(script, "preStop", "exec")
    sleep = float(re.findall(r"time\.sleep\((\d+)\)", script)[0])
    limit = float(re.findall(r"timeout=(\d+)", script)[0])

    assert limit > default_of(Bus.drain, "deadline") + 1
    assert pod["terminationGracePeriodSeconds"] > sleep + limit + default_of(Bus.aclose, "deadline")
    latest = sleep + default_of(Bus.drain, "deadline") + 1
    assert f"| {latest:g} at most |" in TEXT
    assert f"| {pod['terminationGracePeriodSeconds']} | SIGKILL" in TEXT


def test_the_ingress_waits_longer_than_the_heartbeat(documents: list[Any]) -> None:
    """A connection that only answers pings stays open."""
    annotations = documents[-1]["metadata"]["annotations"]
    interval = HeartbeatPolicy().interval

    assert interval is not None
    assert all(int(seconds) > 2 * interval for seconds in annotations.values())


@pytest.mark.filterwarnings("ignore::UserWarning")  # Starlette's, about httpx.
def test_the_application_has_the_routes_of_the_manifest(pod: Any) -> None:
    """Each path that a probe asks, or preStop calls, is there, and answers as it must."""
    (container,) = pod["containers"]
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    drained = re.findall(r"127\.0\.0\.1:8000(/[^\"]+)", str(container["lifecycle"]))
    local = ("127.0.0.1", 50000)
    with running(PAGE) as guide, TestClient(guide.app, client=local) as client:
        for kind in kinds:
            assert client.get(container[kind]["httpGet"]["path"]).status_code == 200
        assert client.post(drained[0]).status_code == 200
        assert client.get(container["readinessProbe"]["httpGet"]["path"]).status_code == 503
        assert client.get(container["livenessProbe"]["httpGet"]["path"]).status_code == 200
