"""``wsbus doctor URL``: connect to a server, and compare the clocks."""

from __future__ import annotations

import time

import msgspec

from .findings import CLOCK_SECONDS, PATIENCE, Findings
from .options import Target

__all__ = ["look_at_server"]


class _Stamped(msgspec.Struct):
    type: str
    timestamp: int


def look_at_server(findings: Findings, target: Target) -> None:
    """Connect, and compare the time of the first message with the own one.

    Raises:
        UsageError: The URL is none of a WebSocket.
    """
    from websockets.exceptions import InvalidHandshake, WebSocketException
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    from ..client.address import parse_url, redacted

    parse_url(target.url)
    what = redacted(target.url)
    began = time.time()
    try:
        with connect(
            target.url,
            subprotocols=[Subprotocol("wsbus.v1")],
            open_timeout=PATIENCE,
            close_timeout=1,
        ) as peer:
            findings.tell("ok", what, f"it answers, with {peer.subprotocol or 'no subprotocol'}")
            token = target.token() if callable(target.token) else target.token
            if token is not None:
                peer.send(msgspec.json.encode({"type": "auth", "token": token}).decode())
            else:  # An answer comes, also where a token is wanted.
                peer.send('{"type":"ping"}')
            stamped = msgspec.json.decode(peer.recv(timeout=PATIENCE), type=_Stamped)
            ended = time.time()
    except TimeoutError:
        cure = "is it a wsbus server? If it wants a token, give --token-file"
        findings.tell("warn", what, f"nothing comes within {PATIENCE:g} s", cure)
    except (InvalidHandshake, OSError, UnicodeError) as exc:  # A host may have too long a label.
        cure = "see docs/how-to/troubleshooting.md"
        findings.tell("fail", what, f"cannot connect: {exc}", cure)
    except (WebSocketException, msgspec.MsgspecError, RecursionError) as exc:
        findings.tell("fail", what, f"it does not speak wsbus.v1: {exc}")
    else:
        offset = stamped.timestamp / 1000 - (began + ended) / 2
        about = (ended - began) / 2
        is_close = abs(offset) <= CLOCK_SECONDS + about
        findings.tell(
            "ok" if is_close else "warn",
            what,
            f"its clock is {offset:+.3f} s from this one (± {about:.3f} s)",
            "" if is_close else "let both follow NTP: tokens expire by the clock",
        )
