"""Identify clients: the interface of authenticators, and one for JSON Web Tokens."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from time import time
from typing import Any, Final, Protocol, TypeAlias

from ._keys import Key, Keys, UnknownKey
from ._log import BoundedLog, escaped
from .core.errors import InvalidChannel, Unauthenticated, UsageError
from .core.permissions import Grants, Identity, is_subject
from .transport import Handshake

__all__ = ["JWT", "Authenticator", "GrantsOf", "grants_from_claims"]

logger: Final = logging.getLogger("wsbus.auth")

GrantsOf: TypeAlias = Callable[[Mapping[str, Any]], Grants]
"""Turns the claims of a token into grants; raises :class:`.Unauthenticated` if it cannot."""

_WARNING: Final = "a token is refused: %s (on %s; `wsbus token show` tells what a token holds)"


class Authenticator(Protocol):
    """Any callable of this shape, sync or async.

    It is called at the handshake, with the token of the query if the endpoint takes one there,
    and again for each ``auth`` message. A sync one must not block.
    """

    def __call__(
        self, token: str | None, handshake: Handshake
    ) -> Identity | Awaitable[Identity | None] | None:
        """Return the identity; None for "not yet": the client then has to send an ``auth``.

        Args:
            token: What the client shows; None at a handshake without one.
            handshake: Its headers may tell, too: a cookie, say.

        Raises:
            Unauthenticated: The token, or the handshake, is refused.
        """
        ...


def grants_from_claims(claims: Mapping[str, Any]) -> Grants:
    """Return the grants that the claims of a token name.

    ``admin`` (bool), ``subscribe``, ``publish`` and ``command`` (lists of patterns) are the
    grants, absent ones grant nothing; ``deny_subscribe``, ``deny_publish`` and ``deny_command``
    take away.

    Raises:
        Unauthenticated: A claim of these does not have its type, or a pattern is none.
    """
    admin = claims.get("admin", False)
    if not isinstance(admin, bool):
        raise Unauthenticated("the token's claim `admin` is not true or false")
    names = ("subscribe", "publish", "command")
    try:
        return Grants.of(
            admin=admin,
            **{name: _patterns(claims, name) for name in names},
            **{name: _patterns(claims, name) for name in (f"deny_{n}" for n in names)},
        )
    except InvalidChannel as exc:
        raise Unauthenticated(f"a pattern in the token is not valid: {exc}") from None


def _patterns(claims: Mapping[str, Any], name: str) -> list[str]:
    patterns = claims.get(name, [])
    if not isinstance(patterns, list) or not all(isinstance(text, str) for text in patterns):
        raise Unauthenticated(f"the token's claim `{name}` is not a list of patterns")
    return patterns


class _Refused(Exception):
    """A token is refused.

    Args:
        why: For the log; repeats nothing of the token.
        told: For the client.
    """

    def __init__(self, why: str, told: str = "the token is not valid") -> None:
        super().__init__(why, told)
        self.why: Final = why
        self.told: Final = told


class JWT:
    """Judges JSON Web Tokens (RFC 7519).

    The claims ``sub`` and ``exp`` are required; what the others grant says ``grants``. Why a
    token is refused stands in the log of ``wsbus.auth``, at WARNING, each reason once a minute.

    Needs the extra ``jwt``.

    Args:
        key: The secret, of at least 32 bytes for HS256 (RFC 7518, section 3.2); or the public key
            in PEM; or several keys, of which the token names one in its header ``kid``: a mapping
            of them, or a JWK set (RFC 7517) as a dict; or a function that is given the header of
            a token, not verified yet, and returns its key, or None. The function must not block.
        algorithms: Those accepted; never mix symmetric and asymmetric ones.
        audience: If given, ``aud`` must hold one of these; if not, tokens with ``aud`` are
            refused.
        issuer: If given, ``iss`` must be one of these.
        leeway: Seconds by which the clocks may differ.
        grants: Turns the claims into grants.

    Raises:
        UsageError: PyJWT is not installed, or a setting can never take effect or is not safe: a
            short secret, the path of a key, a public key as a secret, an unknown algorithm.
    """

    def __init__(
        self,
        key: Key | Mapping[str, Any] | Callable[[Mapping[str, Any]], Any],
        *,
        algorithms: Sequence[str] = ("HS256",),
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway: float = 0.0,
        grants: GrantsOf = grants_from_claims,
    ) -> None:
        try:
            import jwt  # an extra
        except ImportError as exc:
            raise UsageError("JWT needs PyJWT: pip install 'wsbus[jwt]'") from exc
        _check_settings(leeway, grants)
        self._jwt: Final = jwt
        self._keys: Final = Keys(key, algorithms)
        self._algorithms: Final = list(algorithms)
        self._audience: Final = _names("audience", audience)
        self._issuer: Final = _names("issuer", issuer)
        self._leeway: Final = leeway
        self._grants: Final = grants
        self._log: Final = BoundedLog(logger, a_minute=1)

    def __call__(self, token: str | None, handshake: Handshake) -> Identity | None:
        """Judge the signature first, then the claims; see :class:`Authenticator`."""
        if token is None:
            return None
        path = escaped(handshake.path)
        try:
            return self._identity(self._claims(token))
        except _Refused as exc:
            self._log.warning(_WARNING, exc.why, path, of=exc.why)
            refusal = Unauthenticated(exc.told)
            refusal.is_logged = True
            raise refusal from None
        except Unauthenticated as exc:  # Of the grants.
            self._log.warning(_WARNING, escaped(exc.message, 300), path, of="grants")
            exc.is_logged = True
            raise

    def _claims(self, token: str) -> Mapping[str, Any]:
        jwt = self._jwt
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                self._keys.find(token),
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                # The times are judged below: in words, and strictly.
                options={
                    "require": [],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except UnknownKey as exc:
            raise _Refused(str(exc)) from None
        except jwt.InvalidSignatureError:
            raise _Refused("its signature does not fit the key") from None
        except jwt.InvalidAlgorithmError:
            algorithms = ", ".join(self._algorithms)
            raise _Refused(f"its algorithm (`alg`) is not one of {algorithms}") from None
        except jwt.InvalidAudienceError:
            raise _Refused(
                "it is for an audience (`aud`), and JWT(audience=…) names none"
                if self._audience is None
                else "its audience (`aud`) is not the one that is accepted"
            ) from None
        except jwt.MissingRequiredClaimError as exc:
            raise _Refused(f"it has no claim `{exc.claim}`") from None
        except jwt.InvalidIssuerError:
            raise _Refused("its issuer (`iss`) is not one that is accepted") from None
        except jwt.InvalidKeyError:
            raise _Refused("the key cannot be used for its algorithm (`alg`)") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # Nothing of the cause: its text may repeat parts of the token.
            raise _Refused("it is no JSON Web Token") from None
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        now, leeway = time(), self._leeway
        expires = _seconds(claims, "exp")
        if expires is None:
            raise _Refused("it has no claim `exp`")
        if expires <= now - leeway:
            raise _Refused("it has expired (`exp`)", "the token has expired")
        for name in ("nbf", "iat"):
            begins = _seconds(claims, name)
            if begins is not None and begins > now + leeway:
                raise _Refused(
                    f"its time `{name}` is in the future: the clocks differ by more than the "
                    f"leeway of {leeway:g} s"
                )
        if claims.get("sub") is None:
            raise _Refused("it has no claim `sub`")
        subject = claims["sub"]
        if not isinstance(subject, str):
            raise _Refused("its claim `sub` is not a text (RFC 7519, section 4.1.2)")
        if not (is_subject(subject) and subject.isprintable()):
            told = "the token's claim `sub` is not a printable text"
            raise _Refused("its claim `sub` is empty or not printable", told)
        return Identity(
            subject=subject,
            grants=self._grants(claims),
            # The leeway holds for the end of the connection, too, or it would end before it began.
            expires_at=expires + leeway,
            claims=claims,
        )


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time (RFC 7519, section 2, NumericDate), or None if there is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:  # An integer of hundreds of digits.
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise _Refused(f"its time `{name}` is not a finite number")


def _check_settings(leeway: object, grants: object) -> None:
    is_number = isinstance(leeway, int | float) and not isinstance(leeway, bool)
    if not is_number or not 0 <= leeway < math.inf:  # type: ignore[operator]  # it is a number
        raise UsageError("leeway is a number of seconds, 0 or more")
    if not callable(grants):
        raise UsageError("grants is a function that turns claims into Grants")


def _names(setting: str, names: object) -> str | list[str] | None:
    if names is None or (isinstance(names, str) and names):
        return names
    if isinstance(names, Collection) and names and not isinstance(names, str | bytes | Mapping):
        found = list(names)
        if all(isinstance(name, str) and name for name in found):
            return found
    raise UsageError(f"{setting} is a text, or several")
