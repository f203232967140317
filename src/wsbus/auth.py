"""Who is calling: the interface of authenticators, and one for JSON Web Tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

from .core.errors import InvalidChannel, Unauthenticated, UsageError
from .core.permissions import Grants, Identity
from .transport import Handshake

__all__ = ["JWT", "Authenticator"]


class Authenticator(Protocol):
    """Any callable of this shape, sync or async.

    It is called at the handshake, with the token of the query if the endpoint takes one there,
    and again for each ``auth`` message. A sync one must not block.
    """

    def __call__(
        self, token: str | None, handshake: Handshake
    ) -> Identity | Awaitable[Identity | None] | None:
        """Return who it is; None for "nobody yet": the client is then to send an ``auth``.

        Args:
            token: What the client shows; None at a handshake without one.
            handshake: Its headers may tell, too: a cookie, say.

        Raises:
            Unauthenticated: The token, or the handshake, is refused.
        """
        ...


class JWT:
    """Judges JSON Web Tokens (RFC 7519) whose claims carry the grants.

    Claims: ``sub`` and ``exp`` are required; ``admin`` (bool), ``subscribe``, ``publish`` and
    ``command`` (lists of patterns) are the grants, absent ones grant nothing; ``deny_subscribe``,
    ``deny_publish`` and ``deny_command`` take away.

    Needs the extra ``jwt``.

    Args:
        key: The secret, or the public key in PEM.
        algorithms: Those accepted; never mix symmetric and asymmetric ones.
        audience: If given, ``aud`` must hold one of these.
        issuer: If given, ``iss`` must be one of these.
        leeway: Seconds by which the clocks may differ.

    Raises:
        UsageError: PyJWT is not installed, or algorithms of both kinds are mixed.
    """

    def __init__(
        self,
        key: str | bytes,
        *,
        algorithms: Sequence[str] = ("HS256",),
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway: float = 0.0,
    ) -> None:
        try:
            import jwt  # an extra
        except ImportError as exc:
            raise UsageError("JWT needs PyJWT: pip install 'wsbus[jwt]'") from exc
        symmetric = [name.upper().startswith("HS") for name in algorithms]
        if not algorithms or (any(symmetric) and not all(symmetric)):
            raise UsageError("algorithms must be given, all of one kind: HS… or asymmetric")
        self._jwt: Final = jwt
        self._key: Final = key
        self._algorithms: Final = list(algorithms)
        self._audience: Final = audience
        self._issuer: Final = issuer
        self._leeway: Final = leeway

    def __call__(self, token: str | None, handshake: Handshake) -> Identity | None:
        """Judge the signature first, then the claims; see :class:`Authenticator`."""
        return None if token is None else self._identity(self._claims(token))

    def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = self._jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": ["exp", "sub"]},
            )
        except self._jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except (self._jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # Nothing of the cause: its text may repeat parts of the token.
            raise Unauthenticated("the token is not valid") from None
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        admin = claims.get("admin", False)
        if not isinstance(admin, bool):
            raise Unauthenticated("the token's claim `admin` is not true or false")
        subject = claims["sub"]
        if not subject or not subject.isprintable():
            raise Unauthenticated("the token's claim `sub` is not a printable text")
        names = ("subscribe", "publish", "command")
        try:
            grants = Grants.of(
                admin=admin,
                **{name: _patterns(claims, name) for name in names},
                **{name: _patterns(claims, name) for name in (f"deny_{n}" for n in names)},
            )
        except InvalidChannel as exc:
            raise Unauthenticated(f"a pattern in the token is not valid: {exc}") from None
        return Identity(
            subject=subject,
            grants=grants,
            # The leeway holds for the end of the connection, too, or it would end before it began.
            expires_at=float(claims["exp"]) + self._leeway,
            claims=claims,
        )


def _patterns(claims: Mapping[str, Any], name: str) -> list[str]:
    patterns = claims.get(name, [])
    if not isinstance(patterns, list) or not all(isinstance(text, str) for text in patterns):
        raise Unauthenticated(f"the token's claim `{name}` is not a list of patterns")
    return patterns
