"""JSON Web Tokens: which are taken, why the others are not, and with which keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from wsbus import (
    JWT,
    Bus,
    Grants,
    Handshake,
    Identity,
    Unauthenticated,
    UsageError,
    grants_from_claims,
)
from wsbus.auth import shown_token
from wsbus.endpoint import Refusal

SECRET: Final = "for the tests: at least 32 bytes"
ANYWHERE: Final = Handshake("/")
NOW: Final = time.time()
HS: Final = {"alg": "HS256", "typ": "JWT"}

PRIVATE: Final = [rsa.generate_private_key(65537, 2048) for _ in range(2)]


def pem(key: rsa.RSAPrivateKey) -> str:
    """Return the public key, in PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def b64(data: bytes) -> str:
    """Encode a part of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(
    header: Any, claims: Any, *, key: bytes = SECRET.encode(), hashed: Any = hashlib.sha256
) -> str:
    """Return a token of any JSON, or bytes, signed with HMAC."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, claims)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(hmac.new(key, signed.encode(), hashed).digest())}"


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims, with changes; ``...`` takes a claim away."""
    found = {"sub": "u1", "exp": NOW + 600, "subscribe": ["a.*"], **changes}
    return {name: value for name, value in found.items() if value is not ...}


def unsigned(header: Any) -> str:
    """Return a token with an empty signature."""
    return forge(header, claims()).rpartition(".")[0] + "."


def signed(body: bytes) -> str:
    """Return a token with claims of these bytes."""
    return forge(HS, body)


GOOD: Final = forge(HS, claims())

REFUSED: Final = {
    "alg none": unsigned({"alg": "none"}),
    "alg None": unsigned({"alg": "None"}),
    "alg nOnE": unsigned({"alg": "nOnE"}),
    "alg none, signed": forge({"alg": "none"}, claims()),
    "no alg": forge({}, claims()),
    "alg empty": forge({"alg": ""}, claims()),
    "alg list": forge({"alg": ["HS256"]}, claims()),
    "alg number": forge({"alg": 1}, claims()),
    "alg null": forge({"alg": None}, claims()),
    "alg HS384": forge({"alg": "HS384"}, claims(), hashed=hashlib.sha384),
    "alg RS256": forge({"alg": "RS256"}, claims()),
    "alg lower case": forge({"alg": "hs256"}, claims()),
    "empty key": forge(HS, claims(), key=b""),
    "other key": forge(HS, claims(), key=b"x" * 32),
    "key with newline": forge(HS, claims(), key=SECRET.encode() + b"\n"),
    "signature cut": GOOD[:-2],
    "signature empty": GOOD.rpartition(".")[0] + ".",
    "signature of another": GOOD.rpartition(".")[0] + forge(HS, claims(sub="u2"))[-44:],
    "signature not base64": GOOD[:-3] + "!!!",
    "crit exp": forge({**HS, "crit": ["exp"]}, claims()),
    "crit b64": forge({**HS, "crit": ["b64"], "b64": False}, claims()),
    "jwk in the header": forge(
        {**HS, "jwk": {"kty": "oct", "k": b64(b"x" * 32)}}, claims(), key=b"x" * 32
    ),
    "nested": forge({**HS, "cty": "JWT"}, GOOD.encode()),
    "expired": forge(HS, claims(exp=NOW - 1)),
    "no exp": forge(HS, claims(exp=...)),
    "exp null": forge(HS, claims(exp=None)),
    "exp digits in text": forge(HS, claims(exp=str(int(NOW + 600)))),
    "exp text": forge(HS, claims(exp="x")),
    "exp empty": forge(HS, claims(exp="")),
    "exp 1e999": signed(b'{"sub":"u1","exp":1e999}'),
    "exp Infinity": signed(b'{"sub":"u1","exp":Infinity}'),
    "exp -Infinity": signed(b'{"sub":"u1","exp":-Infinity}'),
    "exp NaN": signed(b'{"sub":"u1","exp":NaN}'),
    "exp -1": forge(HS, claims(exp=-1)),
    "exp 0": forge(HS, claims(exp=0)),
    "exp true": forge(HS, claims(exp=True)),
    "exp list": forge(HS, claims(exp=[NOW + 600])),
    "exp object": forge(HS, claims(exp={})),
    "exp of 400 digits": signed(b'{"sub":"u1","exp":' + b"9" * 400 + b"}"),
    "exp of 4,000 digits": signed(b'{"sub":"u1","exp":' + b"9" * 4000 + b"}"),
    "exp of 5,000 digits": signed(b'{"sub":"u1","exp":' + b"9" * 5000 + b"}"),
    "exp -4,000 digits": signed(b'{"sub":"u1","exp":-' + b"9" * 4000 + b"}"),
    "nbf later": forge(HS, claims(nbf=NOW + 3600)),
    "nbf text": forge(HS, claims(nbf="x")),
    "nbf of 4,000 digits": signed(b'{"sub":"u","exp":9e9,"nbf":' + b"9" * 4000 + b"}"),
    "nbf NaN": signed(b'{"sub":"u1","exp":9e9,"nbf":NaN}'),
    "nbf true": forge(HS, claims(nbf=True)),
    "iat later": forge(HS, claims(iat=NOW + 3600)),
    "iat text": forge(HS, claims(iat="x")),
    "iat of 4,000 digits": signed(b'{"sub":"u","exp":9e9,"iat":' + b"9" * 4000 + b"}"),
    "iat Infinity": signed(b'{"sub":"u1","exp":9e9,"iat":Infinity}'),
    "iat list": forge(HS, claims(iat=[])),
    "aud": forge(HS, claims(aud="other")),
    "aud list": forge(HS, claims(aud=["other"])),
    "no sub": forge(HS, claims(sub=...)),
    "sub null": forge(HS, claims(sub=None)),
    "sub empty": forge(HS, claims(sub="")),
    "sub number": forge(HS, claims(sub=5)),
    "sub zero": forge(HS, claims(sub=0)),
    "sub false": forge(HS, claims(sub=False)),
    "sub list": forge(HS, claims(sub=["a"])),
    "sub object": forge(HS, claims(sub={})),
    "sub NUL": forge(HS, claims(sub="a\0b")),
    "sub newline": forge(HS, claims(sub="a\nb")),
    "sub escape": forge(HS, claims(sub="\x1b[31m")),
    "sub override": forge(HS, claims(sub="\u202ea")),
    "sub surrogate": signed(b'{"sub":"\\ud800","exp":9999999999}'),
    "claims list": signed(b"[1]"),
    "claims text": signed(b'"x"'),
    "claims null": signed(b"null"),
    "claims number": signed(b"1"),
    "claims empty": signed(b""),
    "claims {}": signed(b"{}"),
    "claims broken": signed(b"{"),
    "claims not UTF-8": signed(b"\xff"),
    "claims deep": signed(b"[" * 20_000),
    "last sub wins": signed(b'{"sub":"u1","sub":5,"exp":9999999999}'),
    "last exp wins": signed(b'{"sub":"u1","exp":9999999999,"exp":1}'),
    "header list": forge(b"[]", claims()),
    "header text": forge(b'"HS256"', claims()),
    "header not UTF-8": forge(b"\xff", claims()),
    "header deep": forge(b"[" * 20_000, claims()),
    "admin 1": forge(HS, claims(admin=1)),
    "admin text": forge(HS, claims(admin="true")),
    "admin null": forge(HS, claims(admin=None)),
    "subscribe text": forge(HS, claims(subscribe="a.*")),
    "subscribe null": forge(HS, claims(subscribe=None)),
    "subscribe object": forge(HS, claims(subscribe={"a": 1})),
    "subscribe [1]": forge(HS, claims(subscribe=[1])),
    "subscribe bad": forge(HS, claims(subscribe=["a..b"])),
    "command bad": forge(HS, claims(command=[""])),
    "deny text": forge(HS, claims(deny_subscribe="a")),
    "deny bad": forge(HS, claims(deny_command=["a b"])),
    "empty": "",
    "dots": "..",
    "one dot": ".",
    "two parts": GOOD.rpartition(".")[0],
    "four parts": GOOD + ".x",
    "space before": " " + GOOD,
    "not ASCII": "é.é.é",
    "surrogate": "\ud800.a.b",
    "60 KB": "a" * 60_000,
    "60 KB of dots": "." * 60_000,
    "Bearer": "Bearer " + GOOD,
    "quotes": f'"{GOOD}"',
}

TAKEN: Final = {
    "good": GOOD,
    "kid path": forge({**HS, "kid": "../../../../dev/null"}, claims()),
    "kid SQL": forge({**HS, "kid": "' or 1=1--"}, claims()),
    "jku": forge({**HS, "jku": "http://127.0.0.1:1/"}, claims()),
    "typ at+jwt": forge({"alg": "HS256", "typ": "at+jwt"}, claims()),
    "exp 1e15": forge(HS, claims(exp=10**15)),
    "exp float": forge(HS, claims(exp=NOW + 600.5)),
    "iat now": forge(HS, claims(iat=NOW)),
    "nbf null": forge(HS, claims(nbf=None)),
    "any iss": forge(HS, claims(iss="x")),
}


def test_the_matrix_is_large() -> None:
    """So many hostile tokens were thought of at least."""
    assert len(REFUSED) >= 84


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_token_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Never taken, never another error; the log has a reason, and nothing of the token."""
    token = REFUSED[name]
    with pytest.raises(Unauthenticated) as caught:
        JWT(SECRET)(token, ANYWHERE)

    (record,) = caplog.records
    assert record.getMessage().startswith("a token is refused: ")
    parts = [part for part in token.split(".") if len(part) > 8]
    assert not any(part in record.getMessage() + caught.value.message for part in parts)


@pytest.mark.parametrize("name", TAKEN)
def test_a_good_token_is_taken(name: str) -> None:
    """Whatever else its header says; the grants are those of the claims, and no more."""
    identity = JWT(SECRET)(TAKEN[name], ANYWHERE)

    assert identity is not None
    assert identity.subject == "u1"
    assert identity.grants == Grants.of(subscribe=["a.*"])


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (forge(HS, claims(exp=...)), "no claim `exp`"),
        (forge(HS, claims(sub=...)), "no claim `sub`"),
        (forge(HS, claims(sub=42)), "`sub` is not a text"),
        (forge(HS, claims(), key=b"x" * 32), "signature does not fit the key"),
        (forge(HS, claims(aud="x")), "(`aud`), and JWT(audience=…) names none"),
        (forge({"alg": "none"}, claims()), "(`alg`) is not one of HS256"),
        (forge(HS, claims(iat=NOW + 3600)), "`iat` is in the future"),
        (forge(HS, claims(nbf=NOW + 3600)), "`nbf` is in the future"),
        (forge(HS, claims(exp=NOW - 60)), "expired"),
        (forge(HS, claims(exp="soon")), "`exp` is not a finite number"),
        ("junk", "no JSON Web Token"),
        (forge(HS, claims(admin=1)), "`admin` is not true or false"),
    ],
)
def test_each_reason_has_its_words(token: str, word: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever runs the server finds in the log why a token is refused."""
    with pytest.raises(Unauthenticated):
        JWT(SECRET)(token, ANYWHERE)

    assert word in caplog.text


def test_a_reason_is_not_repeated(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients cannot fill the log: one line a minute, which counts what was left out."""
    now = 100.0
    monkeypatch.setattr("wsbus._log.monotonic", lambda: now)
    judge = JWT(SECRET)
    for i in range(30):
        now = 100.0 + i // 29 * 61
        for token in ("junk", REFUSED["no exp"]):
            with pytest.raises(Unauthenticated):
                judge(token, ANYWHERE)

    lines = [record.getMessage() for record in caplog.records]
    cure = "(on /; wsbus token show tells what a token holds)"
    assert lines[:2] == [
        f"a token is refused: it is no JSON Web Token {cure}",
        f"a token is refused: it has no claim `exp` {cure}",
    ]
    assert lines[2:] == [f"{line} (28 more like this were left out before)" for line in lines[:2]]


def test_audience_issuer_and_leeway() -> None:
    """Each is looked at if it is set."""
    now = time.time()
    strict = JWT(SECRET, audience=["app", "web"], issuer="me", leeway=30)
    good = claims(aud="web", iss="me", exp=now - 10, iat=now + 10)
    identity = strict(forge(HS, good), ANYWHERE)

    assert identity is not None
    assert identity.expires_at == pytest.approx(now + 20)
    for change in ({"aud": "x"}, {"aud": ...}, {"iss": "x"}, {"iss": ...}, {"exp": now - 40}):
        left = {k: v for k, v in {**good, **change}.items() if v is not ...}
        with pytest.raises(Unauthenticated):
            strict(forge(HS, left), ANYWHERE)


# --- settings -------------------------------------------------------------------------------------


async def later(claims: Mapping[str, Any]) -> Grants:
    return Grants()


MISTAKES: Final[list[tuple[Callable[[], JWT], str]]] = [
    (lambda: JWT(None), "text or bytes"),  # type: ignore[arg-type]
    (lambda: JWT(""), "empty"),
    (lambda: JWT(b""), "empty"),
    (lambda: JWT("x" * 31), "31 bytes"),
    (lambda: JWT("x" * 47, algorithms=["HS384"]), "48"),
    (lambda: JWT("x" * 63, algorithms=["HS512"]), "64"),
    (lambda: JWT(5), "text or bytes"),  # type: ignore[arg-type]
    (lambda: JWT([]), "holds 1 to 8"),
    (lambda: JWT([SECRET] * 9), "holds 1 to 8"),
    (lambda: JWT([SECRET, "short"]), "32 or more"),
    (lambda: JWT({SECRET}), "list, a dict by `kid`"),  # type: ignore[arg-type]
    (lambda: JWT(Path("/run/secrets/of-the-application")), "read the file"),  # type: ignore[arg-type]
    (lambda: JWT("/run/secrets/of-the-application.pem"), "read the file"),
    (lambda: JWT(__file__), "read the file"),
    (lambda: JWT("keys/public.pem", algorithms=["RS256"]), "read the file"),
    (lambda: JWT(pem(PRIVATE[0])), "HS256"),
    (lambda: JWT("not a key, but as long as one is", algorithms=["RS256"]), "RS256"),
    (lambda: JWT(PRIVATE[0], algorithms=["RS256"]), "private"),  # type: ignore[arg-type]
    (lambda: JWT(SECRET, algorithms=["none"]), "none"),
    (lambda: JWT(SECRET, algorithms=["HS256", "none"]), "none"),
    (lambda: JWT(SECRET, algorithms=["hs256"]), "hs256"),
    (lambda: JWT(SECRET, algorithms=["XX"]), "XX"),
    (lambda: JWT(SECRET, algorithms=[]), "must be given"),
    (lambda: JWT(SECRET, algorithms=["HS256", "RS256"]), "one kind"),
    (lambda: JWT(SECRET, algorithms="HS256"), "list"),
    (lambda: JWT(SECRET, audience=""), "audience"),
    (lambda: JWT(SECRET, audience=[]), "audience"),
    (lambda: JWT(SECRET, issuer=5), "issuer"),  # type: ignore[arg-type]
    (lambda: JWT(SECRET, leeway=-1), "leeway"),
    (lambda: JWT(SECRET, leeway=float("inf")), "leeway"),
    (lambda: JWT(SECRET, leeway="5"), "leeway"),  # type: ignore[arg-type]
    (lambda: JWT(SECRET, grants=Grants()), "grants"),  # type: ignore[arg-type]
    (lambda: JWT(SECRET, grants=later), "grants is a def"),  # type: ignore[arg-type]
    (lambda: JWT({}), "dict"),
    (lambda: JWT({"k1": "short"}), "32"),
    (lambda: JWT({"keys": []}), "JWK set"),
    (lambda: JWT({"kty": "oct", "k": b64(SECRET.encode())}), "set"),
]


@pytest.mark.parametrize(("make", "word"), MISTAKES, ids=map(str, range(len(MISTAKES))))
def test_settings_that_cannot_work_are_refused(make: Callable[[], JWT], word: str) -> None:
    """When it is made, and the error says which."""
    with pytest.raises(UsageError, match=word):
        make()


# --- where a token is shown -----------------------------------------------------------------------


def b64_text(text: str) -> str:
    return "wsbus.token." + b64(text.encode())


HEADERS: Final = {"authorization": "Bearer a.b.c", "cookie": "x=1; t=k.u.c"}
SHOWN: Final[list[tuple[dict[str, Any], str | None]]] = [
    ({"headers": HEADERS, "subprotocols": (b64_text("s"),), "query_string": "t=q"}, "a.b.c"),
    ({"headers": {"authorization": "bEARER  a.b.c "}}, "a.b.c"),
    ({"headers": {"authorization": "Bearer"}}, ""),
    ({"headers": {"authorization": "Basic YTpi"}}, None),
    ({"headers": {"authorization": "Basic YTpi", "cookie": "t=c"}}, "c"),
    ({"subprotocols": ("wsbus.v1", b64_text("é.x"), b64_text("z")), "query_string": "t=q"}, "é.x"),
    ({"subprotocols": (b64_text("ab"),)}, "ab"),
    ({"subprotocols": (b64_text("abc"), "wsbus.v1")}, "abc"),
    ({"subprotocols": (b64_text("ÿÿ>?~"),)}, "ÿÿ>?~"),
    ({"subprotocols": ("wsbus.tokens",)}, None),
    ({"query_string": "t=q", "headers": {"cookie": "t=c"}}, "q"),
    ({"query_string": "u=q"}, None),
    ({"headers": {"cookie": "tt=1; t=c; t=d"}}, "c"),
    ({"headers": {"cookie": 'u=1,t="c"'}}, "c"),
    ({"headers": {"cookie": "t"}}, ""),
    ({"headers": {"cookie": "x=t=1"}}, None),
    ({}, None),
]


@pytest.mark.parametrize(("shown", "token"), SHOWN, ids=map(str, range(len(SHOWN))))
def test_the_first_token_that_is_shown_counts(shown: dict[str, Any], token: str | None) -> None:
    """``Authorization``, then a subprotocol, then the query, then the cookie."""
    assert shown_token(Handshake("/", **shown), "t", "t", header=True) == token


def test_a_source_that_is_off_is_not_looked_at() -> None:
    """Each is looked at only where the endpoint says so."""
    handshake = Handshake("/", "t=q", HEADERS, subprotocols=(b64_text("s"),))
    assert shown_token(handshake, None, None, header=False) is None
    assert shown_token(handshake, "t", None, header=False) == "q"
    assert shown_token(handshake, None, "t", header=False) == "k.u.c"
    assert shown_token(handshake, None, None, header=True) == "a.b.c"
    assert "k.u.c" not in repr(handshake)
    assert b64_text("s") not in repr(handshake)


@pytest.mark.parametrize("text", ["!", "a", "_w", "é"])
async def test_a_subprotocol_that_holds_no_token_is_refused(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not passed over: the client is told with 401 what is wrong with it, and the log."""
    bus = Bus()
    endpoint = bus.endpoint(authenticator=JWT(SECRET))
    async with bus:
        handshake = Handshake("/", subprotocols=("wsbus.v1", f"wsbus.token.{text}"))
        refusal = await endpoint.admit(handshake)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, "base64url" in refusal.reason) == (401, True)
    assert "is not in base64url" in caplog.text


async def test_a_token_alone_names_no_dialect() -> None:
    """A browser hangs up if nothing that it offered is chosen: the refusal says what to offer."""
    bus = Bus()
    endpoint = bus.endpoint(authenticator=JWT(SECRET))
    async with bus:
        refusal = await endpoint.admit(Handshake("/", subprotocols=(b64_text(GOOD),)))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, "wsbus.v1" in refusal.reason) == (400, True)
    assert b64_text(GOOD) not in refusal.reason


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"cookie_token": "t", "origins": "*"}, "origins"),
        ({"cookie_token": "t", "origins": ["https://a.example", "null"]}, "origins"),
        ({"cookie_token": "a b"}, "name of a cookie"),
        ({"cookie_token": ""}, "name of a cookie"),
        ({"cookie_token": True}, "name of a cookie"),
        ({"query_token": ""}, "parameter of the query"),
        ({"query_token": 5}, "parameter of the query"),
        ({"header_token": "Authorization"}, "True or False"),
        ({"cookie_token": "t", "authenticator": None}, "needs an authenticator"),
        ({"query_token": "t", "authenticator": None}, "needs an authenticator"),
    ],
    ids=range(10),
)
def test_sources_that_cannot_work_are_refused(settings: dict[str, Any], word: str) -> None:
    """When the endpoint is made: a cookie without a check of origins, a name that is none."""
    with pytest.raises(UsageError, match=word):
        Bus().endpoint(**{"authenticator": JWT(SECRET), **settings})


# --- several keys ---------------------------------------------------------------------------------


def key_set() -> dict[str, Any]:
    """Return two public keys as an identity provider publishes them."""
    to_jwk = jwt.algorithms.RSAAlgorithm.to_jwk
    return {
        "keys": [
            {**to_jwk(key.public_key(), as_dict=True), "kid": f"k{n}", "use": "sig"}
            for n, key in enumerate(PRIVATE)
        ]
    }


def find(header: Mapping[str, Any]) -> str | None:
    """Return the key that a token names."""
    return {"k0": pem(PRIVATE[0]), "k1": pem(PRIVATE[1])}.get(header["kid"])


FORMS: Final[dict[str, Any]] = {
    "by kid": {"k0": pem(PRIVATE[0]), "k1": pem(PRIVATE[1])},
    "as bytes": {"k0": pem(PRIVATE[0]).encode(), "k1": pem(PRIVATE[1]).encode()},
    "JWK set": key_set(),
    "PyJWKSet": jwt.PyJWKSet.from_dict(key_set()),
    "function": find,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_token_names_one_of_several_keys(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is judged by the key that it names, and by no other."""
    judge = JWT(FORMS[form], algorithms=["RS256"])
    for n, key in enumerate(PRIVATE):
        token = jwt.encode(claims(), key, "RS256", headers={"kid": f"k{n}"})
        identity = judge(token, ANYWHERE)
        assert identity is not None
        assert identity.grants == Grants.of(subscribe=["a.*"])

    swapped = jwt.encode(claims(), PRIVATE[0], "RS256", headers={"kid": "k1"})
    public = forge({"alg": "HS256", "kid": "k0"}, claims(), key=pem(PRIVATE[0]).encode())
    for name, token in {
        "signature": swapped,
        "alg": public,
        "kid": jwt.encode(claims(), PRIVATE[0], "RS256", headers={"kid": "k9"}),
        "`kid`": jwt.encode(claims(), PRIVATE[0], "RS256"),
    }.items():
        caplog.clear()
        with pytest.raises(Unauthenticated):
            judge(token, ANYWHERE)
        assert name in caplog.text or form == "function"


@pytest.mark.parametrize("kid", [5, None, [], {}, True, "../k0", "keys", "", "\ud800"])
def test_a_key_is_named_by_a_text_that_is_known(kid: Any) -> None:
    """No trick with ``kid`` finds a key."""
    header = {"alg": "RS256", "kid": kid}
    for form in ("by kid", "JWK set"):
        with pytest.raises(Unauthenticated):
            JWT(FORMS[form], algorithms=["RS256"])(forge(header, claims()), ANYWHERE)


def test_a_list_of_keys_is_tried_in_turn(caplog: pytest.LogCaptureFixture) -> None:
    """While keys are changed, tokens of the old and of the new one are taken, without ``kid``."""
    judge = JWT(["n" * 32, SECRET])
    for key in (SECRET, "n" * 32):
        assert judge(forge(HS, claims(), key=key.encode()), ANYWHERE) is not None
    for token, word in {
        forge(HS, claims(), key=b"x" * 32): "signature does not fit",
        forge(HS, claims(exp=1)): "expired",
        forge(HS, claims(aud="x"), key=b"n" * 32): "audience",
        "junk": "no JSON Web Token",
    }.items():
        caplog.clear()
        with pytest.raises(Unauthenticated):
            judge(token, ANYWHERE)
        assert word in caplog.text
    pair = JWT([pem(key) for key in PRIVATE], algorithms=["RS256"])
    assert all(pair(jwt.encode(claims(), key, "RS256"), ANYWHERE) for key in PRIVATE)
    with pytest.raises(Unauthenticated):  # A public key is no secret.
        pair(forge(HS, claims(), key=pem(PRIVATE[0]).encode()), ANYWHERE)


def test_keys_may_change() -> None:
    """A function finds keys that were not there when it was given."""
    keys = {"k0": SECRET}
    judge = JWT(lambda header: keys.get(header.get("kid", "")))
    token = forge({**HS, "kid": "k1"}, claims(), key=b"y" * 32)
    with pytest.raises(Unauthenticated):
        judge(token, ANYWHERE)
    keys["k1"] = "y" * 32

    assert judge(token, ANYWHERE) is not None
    keys["k1"] = "short"
    with pytest.raises(UsageError):  # The server's fault: no refusal.
        judge(token, ANYWHERE)


# --- grants ---------------------------------------------------------------------------------------


def test_grants_may_come_from_other_claims() -> None:
    """The function turns claims into grants in place of the usual one, or calls it."""

    def by_scope(claims: Mapping[str, Any]) -> Grants:
        if "scope" not in claims:
            return grants_from_claims(claims)
        return Grants.of(subscribe=claims["scope"].split())

    judge = JWT(SECRET, grants=by_scope)
    scoped = judge(forge(HS, claims(scope="a.* b")), ANYWHERE)
    usual = judge(GOOD, ANYWHERE)

    assert isinstance(scoped, Identity)
    assert isinstance(usual, Identity)
    assert scoped.grants == Grants.of(subscribe=["a.*", "b"])
    assert usual.grants == Grants.of(subscribe=["a.*"])


def test_grants_may_refuse_a_token(caplog: pytest.LogCaptureFixture) -> None:
    """The client is told the function's sentence; the log says that it was the function."""

    def none_for(claims: Mapping[str, Any]) -> Grants:
        raise Unauthenticated(f"{claims['sub']} is banned")

    with pytest.raises(Unauthenticated, match="u1 is banned"):
        JWT(SECRET, grants=none_for)(GOOD, ANYWHERE)
    assert "the function for grants= refuses its claims" in caplog.text
    assert "u1" not in caplog.text
