"""``wsbus token``: make a JSON Web Token, or show one. Needs the extra ``jwt``."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from .claims import claims_of, describe, duration, ends_at, in_words
from .escaping import compact
from .exits import Exit, Failed, explained, say
from .options import json_option, read_secret

__all__ = ["token"]

F = TypeVar("F", bound=Callable[..., Any])
_HMAC_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The shortest secret for each algorithm, in bytes (RFC 7518, section 3.2)."""
_ALGORITHMS: Final = (
    *_HMAC_BYTES,
    *(f"{kind}{size}" for kind in ("RS", "PS", "ES") for size in (256, 384, 512)),
    "EdDSA",
)


def _with_secret(command: F) -> F:
    for decorate in (
        click.option(
            "--algorithm",
            type=click.Choice(_ALGORITHMS),
            default="HS256",
            show_default=True,
            help="All but HS… take a key in PEM, and need pyjwt[crypto].",
        ),
        click.option(
            "--secret-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="A file with the secret, or a key. A newline at its end does not count.",
        ),
        click.option(
            "--secret-env", metavar="NAME", help="An environment variable with the secret."
        ),
    ):
        command = decorate(command)
    return command


@click.group()
def token() -> None:
    """Make a JSON Web Token for wsbus.JWT, or show what one says.

    The secret comes from an environment variable or a file, never from the command line, which
    others on this machine can see.
    """


@token.command()
@_with_secret
@click.option("--subject", required=True, help="Whose token it is: the claim sub.")
@click.option(
    "--expires",
    default="1h",
    show_default=True,
    callback=lambda _, __, text: duration(text),
    help="How long it is valid: 90s, 15m, 1h30m, 7d.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="NAME=PATTERN",
    help="What it allows: NAME is subscribe, publish or command, or one of them with deny_ before "
    "it, which forbids. May be given several times.",
)
@click.option("--admin", is_flag=True, help="Allow it to subscribe to everything.")
@click.option(
    "--claim", "claims", multiple=True, metavar="NAME=JSON", help="""Another claim: 'aud="app"'."""
)
@json_option
def make(
    *,
    subject: str,
    expires: int,
    grants: tuple[str, ...],
    admin: bool,
    claims: tuple[str, ...],
    secret_env: str | None,
    secret_file: Path | None,
    algorithm: str,
    as_json: bool,
) -> None:
    """Print a new token. It allows nothing unless --grant or --admin says so.

    \b
      wsbus token make --subject ada --secret-env SECRET --grant 'subscribe=grid.*'
    """  # noqa: D301  # click wants the character
    with explained("wsbus token"):
        secret = _secret(secret_env, secret_file)
        if secret is None:
            raise Failed("give --secret-env or --secret-file")
        content = claims_of(
            subject, int(time.time()) + expires, admin=admin, grants=grants, claims=claims
        )
        made = _sign(content, secret, algorithm)
        click.echo(
            msgspec.json.encode({"token": made, "claims": content}).decode() if as_json else made
        )
        if len(secret) < _HMAC_BYTES.get(algorithm, 0):
            say(f"this secret is short: {algorithm} wants {_HMAC_BYTES[algorithm]} bytes or more")
        say(f"for {subject}; expires in {in_words(expires)}")


@token.command()
@_with_secret
@click.argument("text", metavar="TOKEN")
@click.option("--audience", help="The audience that the server accepts, if it checks one.")
@click.option("--issuer", help="The issuer that the server accepts, if it checks one.")
@json_option
def show(
    *,
    text: str,
    audience: str | None,
    issuer: str | None,
    secret_env: str | None,
    secret_file: Path | None,
    algorithm: str,
    as_json: bool,
) -> None:
    """Print what TOKEN says. With - it is read from standard input.

    Without a secret nothing is verified: anybody can have written the token. With a secret it is
    checked as a server would check it now.

    \b
    Exit codes:
      0  a server accepts it, or there was no secret to check it with
      1  a server refuses it; standard error says why
      2  it is not a token; or wrong options
    """  # noqa: D301  # click wants the character
    with explained("wsbus token"):
        secret = _secret(secret_env, secret_file)
        given = sys.stdin.read() if text == "-" else text
        header, claims = _decode(given.strip())
        why_not = None
        if secret is None:
            say("NOT VERIFIED: anybody can have written this; give --secret-env or --secret-file")
        else:
            judge = _Judge(secret, algorithm, audience=audience, issuer=issuer)
            why_not = judge.refusal(given.strip(), header)
        now = time.time()
        if as_json:
            verified = None if secret is None else why_not is None
            click.echo(_as_json(header, claims, now, verified=verified, refused=why_not))
        else:
            verdict = "NO" if secret is None else f"REFUSED: {why_not}" if why_not else "yes"
            for heading, words in (
                ("verified", verdict),
                ("header", compact(msgspec.json.encode(header))),
                *describe(claims, now),
            ):
                click.echo(f"{heading:<17}  {words}")
        if why_not is not None:
            raise Failed(f"a server refuses it: {why_not}", Exit.REFUSED)


def _secret(variable: str | None, path: Path | None) -> bytes | None:
    if variable is not None and path is not None:
        raise Failed("give --secret-env or --secret-file, not both")
    if path is not None:
        return read_secret(path)
    if variable is None:
        return None
    secret = os.environb.get(os.fsencode(variable), b"")
    if not secret:
        # The error does not repeat the name: it may be the secret, given by mistake.
        raise Failed("--secret-env names no variable that is set; give its name only")
    return secret


def _sign(claims: dict[str, Any], secret: bytes, algorithm: str) -> str:
    import jwt

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # PyJWT warns of short secrets; this command does it in its own words.
        try:
            return jwt.encode(claims, secret, algorithm=algorithm)
        except NotImplementedError as exc:  # So PyJWT says that cryptography is missing.
            raise Failed(f"{algorithm} needs more: pip install 'pyjwt[crypto]'") from exc
        except (jwt.PyJWTError, ValueError, TypeError) as exc:
            raise Failed(f"with this secret no token can be made for {algorithm}: {exc}") from exc


def _decode(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    import jwt

    try:
        found = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise Failed("this is no JSON Web Token") from exc
    return found["header"], found["payload"]


@dataclass(frozen=True, slots=True)
class _Judge:
    """Checks tokens as a server with this secret does."""

    secret: bytes
    algorithm: str
    _: KW_ONLY
    audience: str | None
    issuer: str | None

    def refusal(self, text: str, header: Mapping[str, Any]) -> str | None:
        """Return why a server refuses the token; None: it accepts it."""
        from ..auth import JWT
        from ..core.errors import Unauthenticated, UsageError
        from ..transport import Handshake

        if header.get("alg") != self.algorithm:
            return f"it is not signed for {self.algorithm}: see --algorithm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not self._has_signed(text):
                return "the signature is WRONG for this secret"
            try:
                judge = JWT(
                    self.secret,
                    algorithms=[self.algorithm],
                    audience=self.audience,
                    issuer=self.issuer,
                )
            except UsageError as exc:
                return str(exc)
            try:
                judge(text, Handshake(path="/"))
            except Unauthenticated as exc:
                return _explain(exc.message)
        return None

    def _has_signed(self, text: str) -> bool:
        import jwt

        try:
            jwt.api_jws.decode(text, self.secret, algorithms=[self.algorithm])
        except NotImplementedError as exc:  # So PyJWT says that cryptography is missing.
            raise Failed(f"{self.algorithm} needs more: pip install 'pyjwt[crypto]'") from exc
        except (jwt.PyJWTError, ValueError, TypeError):
            return False
        return True


def _explain(message: str) -> str:
    if message == "the token is not valid":
        return "a claim is missing or wrong, though the signature is right: sub, exp, aud, iss, nbf"
    return message


def _as_json(
    header: Mapping[str, Any],
    claims: Mapping[str, Any],
    now: float,
    *,
    verified: bool | None,
    refused: str | None,
) -> str:
    end = ends_at(claims)
    found = {
        "verified": verified,
        "refused": refused,
        "expires_in": None if end is None else round(end - now, 3),
        "header": header,
        "claims": claims,
    }
    return compact(msgspec.json.encode(found))
