"""Identify clients: the interface of authenticators, and one for JSON Web Tokens."""

from __future__ import annotations

import base64
import logging
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from time import time
from typing import Any, Final, Protocol, TypeAlias

from ._keys import Key, Keys, UnknownKey
from ._log import BoundedLog, about, escaped
from ._settings import function_setting
from .core.errors import InvalidChannel, Unauthenticated, UsageError
from .core.permissions import Grants, Identity, is_subject
from .transport import Handshake

__all__ = [
    "JWT",
    "Authenticator",
    "GrantsOf",
    "check_token_sources",
    "grants_from_claims",
    "shown_token",
]

logger: Final = logging.getLogger("wsbus.auth")

GrantsOf: TypeAlias = Callable[[Mapping[str, Any]], Grants]
"""Turns the claims of a token into grants, or raises :class:`.Unauthenticated`."""

_WARNING: Final = "a token is refused: %s (on %s; wsbus token show tells what a token holds)"
_SUBPROTOCOL: Final = "wsbus.token."
_COOKIE_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 6265, section 4.1.1


class Authenticator(Protocol):
    """Any callable of this shape, sync or async.

    It is called at the handshake, with the token in it (:func:`shown_token`), and again for each
    ``auth`` message. A sync one must not block.
    """

    def __call__(
        self, token: str | None, handshake: Handshake
    ) -> Identity | Awaitable[Identity | None] | None:
        """Return the identity; None for "not yet": the client then has to send an ``auth``.

        Args:
            token: The client's token; None at a handshake without one.
            handshake: Its headers may identify the client, too: a cookie, for example.

        Raises:
            Unauthenticated: The token, or the handshake, is refused.
        """
        ...


def shown_token(
    handshake: Handshake, query: str | None, cookie: str | None, *, header: bool
) -> str | None:
    """Return the token in a handshake, or None.

    The first of these counts: ``Authorization: Bearer …``, a subprotocol ``wsbus.token.…``, the
    query, the cookie. A cookie comes last because browsers send it unasked.

    Args:
        handshake: The client's handshake.
        query: Name of the query parameter to look at; None: the query is ignored.
        cookie: Name of the cookie to look at; None: cookies are ignored.
        header: Whether to look at ``Authorization`` and subprotocols.

    Raises:
        Unauthenticated: The token in the subprotocol is not valid base64url.
    """
    if header:
        scheme, _, token = handshake.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        for name in handshake.subprotocols:
            if name.startswith(_SUBPROTOCOL):
                return _decoded(name.removeprefix(_SUBPROTOCOL))
    in_query = None if query is None else handshake.query(query)
    if in_query is not None:
        return in_query
    return None if cookie is None else _cookie(handshake.headers.get("cookie", ""), cookie)


def _decoded(text: str) -> str:
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return found.decode()
    except ValueError:
        raise Unauthenticated(
            f"the token in the subprotocol {_SUBPROTOCOL}… is not in base64url"
        ) from None


def _cookie(header: str, name: str) -> str | None:
    for part in re.split("[;,]", header):  # Several headers are joined by commas.
        key, _, value = part.strip().partition("=")
        if key.rstrip() == name:
            return value.strip().removeprefix('"').removesuffix('"')
    return None


def check_token_sources(query: object, cookie: object, *, header: object) -> None:
    """Check the settings that say where an endpoint looks for tokens.

    Raises:
        UsageError: A name is not a text, or not one that a query or a cookie can have.
    """
    if query is not None and not (isinstance(query, str) and query):
        raise UsageError('query_token is the name of a parameter of the query: query_token="token"')
    if cookie is not None and not (isinstance(cookie, str) and _COOKIE_NAME.fullmatch(cookie)):
        raise UsageError('cookie_token is the name of a cookie: cookie_token="token"')
    if not isinstance(header, bool):
        raise UsageError("header_token is True or False")


def grants_from_claims(claims: Mapping[str, Any]) -> Grants:
    """Return the grants in the claims of a token.

    ``admin`` (bool), ``subscribe``, ``publish``, ``command``, ``history``, ``presence`` and
    ``cancel`` (lists of patterns) grant; absent ones grant nothing. ``deny_subscribe``,
    ``deny_publish`` and ``deny_command`` take away.

    Raises:
        Unauthenticated: One of these claims has another type, or a pattern is invalid.
    """
    admin = claims.get("admin", False)
    if not isinstance(admin, bool):
        raise Unauthenticated("the token's claim `admin` is not true or false")
    names = ("subscribe", "publish", "command")
    try:
        return Grants.of(
            admin=admin,
            **{name: _patterns(claims, name) for name in (*names, "history", "presence", "cancel")},
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
        why: The reason for the log; it repeats nothing of the token.
        public: The reason for the client.
    """

    def __init__(self, why: str, public: str = "the token is not valid") -> None:
        super().__init__(why, public)
        self.why: Final = why
        self.public: Final = public


class JWT:
    """Verifies JSON Web Tokens (RFC 7519).

    The claims ``sub`` and ``exp`` are required; ``grants`` turns the others into grants. The log
    of ``wsbus.auth`` says why a token is refused, at WARNING, each reason once a minute.

    Needs the extra ``jwt``.

    Args:
        key: The secret, of at least 32 bytes for HS256 (RFC 7518, section 3.2); or the public key
            in PEM; or a list of a few, which are tried in turn; or several keys, of which the
            token names one in its header ``kid``: a mapping of them, or a JWK set (RFC 7517) as a
            dict; or a function that takes the header of a token, not verified yet, and returns
            its key, or None. The function must not block.
        algorithms: The algorithms accepted; never mix symmetric and asymmetric ones.
        audience: If given, ``aud`` must hold one of these; if not, tokens with ``aud`` are
            refused.
        issuer: If given, ``iss`` must be one of these.
        leeway: Seconds by which the clocks may differ.
        grants: A function that turns the claims into grants, or raises
            :class:`.Unauthenticated`, which refuses the token with its text. It must not block.

    Raises:
        UsageError: PyJWT is not installed, or a setting can never take effect or is not safe: a
            short secret, the path of a key, a public key as a secret, an unknown algorithm.
    """

    def __init__(
        self,
        key: Key | Sequence[Key] | Mapping[str, Any] | Callable[[Mapping[str, Any]], Any],
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
        """Check the signature first, then the claims; see :class:`Authenticator`."""
        if token is None:
            return None
        path = escaped(handshake.path)
        try:
            return self._identity(self._claims(token))
        except _Refused as exc:
            self._log.warning(
                _WARNING, exc.why, path, of=exc.why, extra=about("token_refused", path=path)
            )
            refusal = Unauthenticated(exc.public)
            refusal.is_logged = True
            raise refusal from None
        except Unauthenticated as exc:  # From the function for the grants.
            is_ours = (
                self._grants is grants_from_claims
            )  # The text of other exceptions may hold anything.
            why = exc.message if is_ours else "the function for grants= refuses its claims"
            self._log.warning(
                _WARNING,
                escaped(why, 300),
                path,
                of="grants",
                extra=about("token_refused", path=path),
            )
            exc.is_logged = True
            raise

    def _claims(self, token: str) -> Mapping[str, Any]:
        jwt = self._jwt
        try:
            *others, last = self._keys.find(token)
            for key in others:
                with suppress(jwt.InvalidSignatureError, jwt.InvalidKeyError):
                    return self._verified(token, key)
            return self._verified(token, last)
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
            # The cause is left out: its text may repeat parts of the token.
            raise _Refused("it is no JSON Web Token") from None

    def _verified(self, token: str, key: Any) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = self._jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            # The times are checked below: strictly, and with clear errors.
            options={
                "require": [],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
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
            public = "the token's claim `sub` is not a printable text"
            raise _Refused("its claim `sub` is empty or not printable", public)
        return Identity(
            subject=subject,
            grants=self._grants(claims),
            # The leeway applies to the end of the connection, too, or it would end before it began.
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
    if grants is None or isinstance(grants, Grants):
        raise UsageError("grants is a function that turns claims into Grants")
    function_setting("grants", grants, "claims", may_wait=False)


def _names(setting: str, names: object) -> str | list[str] | None:
    if names is None or (isinstance(names, str) and names):
        return names
    if isinstance(names, Collection) and names and not isinstance(names, str | bytes | Mapping):
        found = list(names)
        if all(isinstance(name, str) and name for name in found):
            return found
    raise UsageError(f"{setting} is a text, or several")
