from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus import UsageError
from wsbus.core.addresses import Proxies, address_key

ADDRESSES = ["10.0.0.1", "10.9.9.9", "192.0.2.1", "192.0.2.2", "2001:db8::1", "fd00::1", "junk"]


@given(
    peer=st.sampled_from([*ADDRESSES[:-1], None]),
    forwarded=st.lists(st.sampled_from(ADDRESSES), max_size=5),
    networks=st.sets(st.sampled_from(["10.0.0.0/8", "fd00::/8", "192.0.2.2", "unix"])),
)
def test_only_the_word_of_trusted_proxies_counts(
    peer: str | None, forwarded: list[str], networks: set[str]
) -> None:
    """The client is the last in the chain that is no trusted proxy, or the first of all."""

    def is_trusted(name: str | None) -> bool:
        if name is None:
            return "unix" in networks
        address = ip_address(name)
        spoken = [ip_network(n) for n in networks - {"unix"}]
        return any(address in n for n in spoken if n.version == address.version)

    chain: list[str | None] = [*forwarded, peer]
    while len(chain) > 1 and is_trusted(chain[-1]) and chain[-2] != "junk":
        chain.pop()
    found = Proxies(networks).client_of(peer, forwarded)
    assert found == chain[-1]


def test_addresses_may_be_written_with_ports_and_zones() -> None:
    """As proxies write them (RFC 7239, section 6)."""
    proxies = Proxies(["10.0.0.1"])
    for written, address in [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        (" ::ffff:192.0.2.1 ", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ]:
        assert proxies.client_of("10.0.0.1", [written]) == address


def test_one_line_is_one_key() -> None:
    """Of IPv6, 64 bits are one client's to choose from."""
    assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:3:4:5:6")
    assert address_key("2001:db8:1:2::1") != address_key("2001:db8:1:3::1")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1") == "192.0.2.1"
    assert address_key("anything else") == "anything else"


@pytest.mark.parametrize("networks", ["10.0.0.0/8", ["example.com"], ["10.0.0.0/33"], [None], [""]])
def test_what_is_no_network_is_refused(networks: list[str]) -> None:
    """When the endpoint is made."""
    with pytest.raises(UsageError):
        Proxies(networks)
