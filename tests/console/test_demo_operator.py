"""The demo's console has no token: who may see it."""

from __future__ import annotations

import pytest

from wsbus import Handshake
from wsbus.core.origins import is_welcome
from wsbus.demo.app import console, operator

HERE = {"host": "localhost:8000", "origin": "http://localhost:8000"}


def admits(address: str | None, **headers: str) -> bool:
    """Tell whether a request is of an operator."""
    client = None if address is None else (address, 50_000)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return operator(None, Handshake("/console/ws", headers=named, client=client)) is not None


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1", "localhost:8000"),
        ("127.0.0.1", "127.0.0.1:8000"),
        ("::1", "[::1]:8000"),
        ("::ffff:127.0.0.1", "localhost"),
    ],
)
def test_a_person_at_the_machine_is_admitted(address: str, host: str) -> None:
    """By each name that the machine has for itself."""
    assert admits(address, host=host)


@pytest.mark.parametrize("address", ["203.0.113.1", "::ffff:203.0.113.1", "localhost", "", None])
def test_other_machines_are_refused(address: str | None) -> None:
    """So is a peer without an address, as over a Unix socket."""
    assert not admits(address, **HERE)


@pytest.mark.parametrize(
    "header",
    ["x_forwarded_for", "x_forwarded_host", "forwarded", "via", "x_real_ip", "cf_connecting_ip"],
)
def test_who_comes_through_a_proxy_is_refused(header: str) -> None:
    """The proxy has the address of this machine; what the header says is the client's to write."""
    assert not admits("127.0.0.1", **HERE, **{header: "127.0.0.1"})


@pytest.mark.parametrize(
    "host", ["", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::1"]
)
def test_a_name_of_elsewhere_that_leads_here_is_refused(host: str) -> None:
    """A page of such a name is of the same host, so that its origin does not show it."""
    assert not admits("127.0.0.1", host=host)


def test_a_page_behind_a_proxy_without_headers_is_refused() -> None:
    """Such a proxy looks like a person at the machine, and the page does not."""
    assert admits("127.0.0.1", host="127.0.0.1:8000")
    origins = console.endpoint.origins
    assert not is_welcome(origins, "https://shop.example", "127.0.0.1:8000")
    assert is_welcome(origins, "http://127.0.0.1:8000", "127.0.0.1:8000")
