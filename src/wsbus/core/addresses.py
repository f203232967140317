"""The addresses of clients, also behind proxies, pure.

Each proxy adds the address that it was called from to the end of ``X-Forwarded-For``. Only the
additions of trusted proxies can be trusted: the client wrote the rest. So the list is read from its
end, and the first address that is not a trusted proxy is the client's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from .errors import UsageError

__all__ = ["UNIX", "Proxies", "address_key", "is_loopback", "shows_proxy"]

UNIX: Final = "unix"
"""Among trusted proxies, any peer on a Unix socket, which has no address."""

_IPV6_PREFIX: Final = 64
"""The usual prefix of one subscriber line: a client can take any address in it."""

_OF_PROXIES: Final = frozenset(
    ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")
)

_Address: TypeAlias = IPv4Address | IPv6Address


class Proxies:
    """The trusted proxies.

    Args:
        networks: Addresses and networks, such as ``10.0.0.0/8``, and ``unix``.

    Raises:
        UsageError: A proxy is something else.
    """

    __slots__ = ("_networks", "_trusts_unix")

    def __init__(self, networks: Collection[str]) -> None:
        if isinstance(networks, str):
            raise UsageError(f"trusted proxies are a collection of texts: write [{networks!r}]")
        if not isinstance(networks, Collection):
            raise UsageError(
                f"trusted proxies are a collection of texts, not {type(networks).__name__}"
            )
        self._trusts_unix: Final = UNIX in networks
        try:
            self._networks: Final = [ip_network(n, strict=False) for n in networks if n != UNIX]
        except (ValueError, TypeError) as exc:
            raise UsageError(f"a trusted proxy is an address, a network or 'unix': {exc}") from None

    def client_of(self, peer: str | None, forwarded: Sequence[str]) -> str | None:
        """Return the address of the client.

        Args:
            peer: The address that the connection came from; None: a Unix socket.
            forwarded: The elements of ``X-Forwarded-For``, in order.

        Returns:
            The address, or None if it is unknown.
        """
        if peer is None:
            if not self._trusts_unix:
                return None
        elif not self._trusts(_parse(peer)):
            return peer
        for element in reversed(forwarded):
            address = _parse(element)
            if address is None:  # A trusted proxy would not add it: ignore the rest.
                return peer
            if not self._trusts(address):
                return str(address)
            peer = str(address)
        return peer

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def address_key(address: str) -> str:
    """Return the key of a client's connections: the address, in IPv6 its 64-bit prefix."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _IPV6_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


def is_loopback(address: str | None) -> bool:
    """Tell whether an address is of this machine; a proxy on it has such a one, too."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def shows_proxy(header: str) -> bool:
    """Tell whether a proxy adds a header of this name, in lower case, to what it passes on."""
    return header in _OF_PROXIES or header.startswith("x-forwarded-")


def _parse(text: str) -> _Address | None:
    """Parse an address, with a port or without; an IPv4 address within IPv6 becomes IPv4."""
    text = text.strip().partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
