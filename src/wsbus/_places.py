"""The bounds of an endpoint's connections, counted from the handshake on; and refusals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from .core.errors import CloseCode
from .core.limits import Limits
from .core.permissions import Identity
from .core.protocol import WireProtocol
from .transport import MAX_HANDSHAKE_BYTES, Handshake

__all__ = ["NOT_AVAILABLE", "TOO_LARGE", "Admission", "Place", "Places", "Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The handshake is refused."""

    status: int
    """HTTP status, where the server can still answer with one."""
    reason: str
    """A sentence for the client."""
    close_code: CloseCode = CloseCode.DISCONNECTED
    """The close code, where the server cannot refuse before it accepts."""


TOO_LARGE: Final = Refusal(
    431,
    f"path, query and headers have over {MAX_HANDSHAKE_BYTES} bytes, "
    "each header and subprotocol counted with 32 more",
)
NOT_AVAILABLE: Final = Refusal(
    503, "the server cannot judge this handshake now", CloseCode.SERVICE_RESTART
)


class Place:
    """One of an endpoint's ``max_connections``, from the handshake until the connection has ended.

    :meth:`release` gives it back, or the garbage collector does: an accepted handshake whose
    connection never runs must not keep a place.
    """

    __slots__ = ("_address", "_places")

    def __init__(self, places: Places, address: str | None) -> None:
        self._places: Places | None = places
        self._address: Final = address

    def release(self) -> None:
        """Give the place back. Idempotent."""
        places, self._places = self._places, None
        if places is not None:
            places.leave(self._address)

    def __del__(self) -> None:
        self.release()


class Places:
    """Counts the connections and handshakes of one endpoint, in all and by address."""

    __slots__ = ("_addresses", "taken")

    def __init__(self) -> None:
        self.taken: int = 0
        """Connections, and handshakes that are not refused yet."""
        self._addresses: Final[Counter[str]] = Counter()

    def enter(self, address: str | None, limits: Limits) -> Refusal | None:
        """Take a place, or return the refusal."""
        if limits.max_connections is not None and self.taken >= limits.max_connections:
            return Refusal(503, "too many connections", CloseCode.SERVICE_RESTART)
        if address is not None:
            most = limits.max_connections_per_address
            if most is not None and self._addresses[address] >= most:
                return Refusal(429, "too many connections of this address", CloseCode.RATE_ABUSE)
            self._addresses[address] += 1
        self.taken += 1
        return None

    def leave(self, address: str | None) -> None:
        """Give a place back."""
        self.taken -= 1
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


@dataclass(frozen=True, slots=True)
class Admission:
    """The handshake is accepted, on these terms."""

    handshake: Handshake
    protocol: WireProtocol
    subprotocol: str | None
    """The subprotocol to echo; None if the client offered none."""
    identity: Identity | None
    """None: the client has yet to authenticate."""
    connection_id: str | None = None
    """The name that ``name_connection`` returned; None: the bus makes an id."""
    place: Place | None = field(default=None, repr=False, compare=False)
    """Release it if the connection never runs; :meth:`.Endpoint.run` releases it itself."""
    is_greeted: bool = field(default=False, repr=False)
    """Whether the client has got ``connected`` already, under the same id."""
