"""How to reach a server of NATS, and what its failures are called."""

from __future__ import annotations

import os
from pathlib import Path
from ssl import SSLContext, SSLError

import msgspec
from nats.errors import Error, StaleConnectionError, UnexpectedEOF

from ..core.errors import BrokerUnavailable

__all__ = ["NatsServer", "reason_of", "refusal_of"]


class NatsServer(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one server."""

    host: str
    """With its port."""
    user: str | None
    """Without a password it is a token."""
    password: str | None
    must_encrypt: bool
    tls: SSLContext | None
    credentials: Path | None
    nkey_seed: Path | None


def reason_of(exc: BaseException) -> str:
    """Say what went wrong in plain words, without a secret."""
    if isinstance(exc, BrokerUnavailable):
        return str(exc)
    if isinstance(exc, UnexpectedEOF):
        return "the server closed the connection"
    if isinstance(exc, StaleConnectionError):
        return "the server did not answer in time"
    if isinstance(exc, SSLError):
        return f"TLS failed: {exc.reason or type(exc).__name__}"
    if isinstance(exc, OSError) and exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno).lower()
    if isinstance(exc, OSError | Error):
        return refusal_of(str(exc))
    return f"{type(exc).__name__} of nats-py"


def refusal_of(text: str) -> str:
    """Say what a server refuses, in plain words."""
    text = text.strip().removeprefix("nats: ").strip().strip("'").lower()
    return "the server refuses the credentials" if "authorization" in text else text
