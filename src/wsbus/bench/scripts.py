"""Scripts for wsbus servers, in each dialect that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .load import Script

__all__ = ["DEFAULT_PAYLOAD", "PROTOCOLS", "bus_script", "call_script", "subscription"]

PROTOCOLS: Final = ("wsbus.v1", "zigquant-v2")
DEFAULT_PAYLOAD: Final = 200

_MARKER: Final = b'"n":"'
_DIGITS: Final = 10
_DATA: Final = '{"n":"0000000000","pad":"%s"}'
_EVENT: Final = '{"type":"event","channel":"%s","event":"m","timestamp":1700000000000,"data":%s}'
_PUBLISH: Final = {
    "wsbus.v1": '{"type":"publish","channel":"%s","event":"m","data":%s}',
    "zigquant-v2": '{"type":"command","action":"publish","params":{"channel":"%s","data":%s}}',
}
_CALL: Final = '{"type":"command","id":"1","action":"%s","params":%s}'
_ANSWER: Final = '{"type":"response","id":"1","timestamp":1700000000000,"success":true,"data":%s}'
_ALIVE: Final = b'{"type":"pong"}'


def bus_script(
    protocol: str = "wsbus.v1",
    *,
    channels: Sequence[str] = ("bench",),
    payload: int = DEFAULT_PAYLOAD,
    digits: bool = True,
) -> Script:
    """Return the script for subscribers of these channels, published on in turn.

    Args:
        protocol: One of :data:`PROTOCOLS`.
        channels: At least one.
        payload: Bytes of a delivered message; at least those around the padding.
        digits: Whether order is checked.
    """
    data = [_padded(_EVENT, channel, payload) for channel in channels]
    pairs = zip(channels, data, strict=True)
    publish = [(_PUBLISH[protocol] % pair).encode() for pair in pairs]
    return Script(
        subprotocol=protocol,
        hello=subscription(*channels),
        publish=publish[0],
        also_publish=publish[1:],
        marker=_MARKER,
        digits=_DIGITS if digits else 0,
        alive=_ALIVE,
    )


def call_script(protocol: str, action: str, *, payload: int = DEFAULT_PAYLOAD) -> Script:
    """Return the script for a command that answers with its data.

    Args:
        protocol: One of :data:`PROTOCOLS`.
        action: The command's name.
        payload: Bytes of an answer.
    """
    data = _padded("%s" + _ANSWER, "", payload)
    call = (_CALL % (action, data)).encode()
    return Script(subprotocol=protocol, publish=call, marker=_MARKER, digits=_DIGITS, alive=_ALIVE)


def subscription(*channels: str) -> Sequence[tuple[bytes | None, bytes | None]]:
    """Return a client's steps to subscribe to these channels."""
    names = ",".join(f'"{channel}"' for channel in channels)
    return [(f'{{"type":"subscribe","channels":[{names}]}}'.encode(), b'"type":"subscribed"')]


def _padded(template: str, channel: str, payload: int) -> str:
    bare = len(template % (channel, _DATA % ""))
    return _DATA % ("x" * max(0, payload - bare))
