"""The keys that verify tokens, checked when they are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from .core.errors import UsageError

__all__ = ["Key", "Keys", "UnknownKey"]

Key: TypeAlias = str | bytes
"""A secret, or a public key in PEM."""

_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The shortest secrets: as long as the hash (RFC 7518, section 3.2)."""

_MAX_TRIED: Final = 8
"""Keys that are tried with one token: any client can cause the attempts."""

_KEY_FILES: Final = (".pem", ".key", ".pub", ".crt", ".cer", ".json", ".txt", ".jwk", ".jwks")


class UnknownKey(Exception):
    """The header of a token names no known key; the text repeats nothing of the header."""


class Keys:
    """One key, several in a list or by ``kid``, or a function that finds the key of a token.

    Args:
        key: As :class:`.JWT` takes it.
        algorithms: The algorithms that the keys are for.

    Raises:
        UsageError: A key or an algorithm cannot be used, or is not safe.
    """

    def __init__(
        self,
        key: Key | Sequence[Key] | Mapping[str, Any] | Callable[[Mapping[str, Any]], Any],
        algorithms: Sequence[str],
    ) -> None:
        import jwt  # keys come with the extra jwt

        self._jwt: Final = jwt
        self._algorithms: Final = _checked_algorithms(algorithms)
        self._all: Sequence[object] = ()
        self._by_id: Mapping[str, object] | None = None
        self._finds: Callable[[Mapping[str, Any]], Any] | None = None
        key_set: object = key
        if isinstance(key_set, jwt.PyJWKSet):
            self._by_id = self._of_set(key_set)
        elif isinstance(key, Mapping):
            self._by_id = self._of_mapping(key)
        elif callable(key):
            self._finds = key
        elif isinstance(key, list | tuple):
            if not 0 < len(key) <= _MAX_TRIED:
                raise UsageError(
                    f"a list of keys holds 1 to {_MAX_TRIED}, which are tried in turn; more of "
                    "them are a dict by `kid`"
                )
            self._all = [self._checked(each) for each in key]
        else:
            self._all = [self._checked(key)]

    def find(self, token: str) -> Sequence[Any]:
        """Return the keys that may have signed a token; one, unless they were given as a list.

        Raises:
            UnknownKey: There is no such key.
            jwt.PyJWTError: The header cannot be read.
        """
        if self._by_id is None and self._finds is None:
            return self._all
        header = self._jwt.get_unverified_header(token)
        if self._finds is not None:
            try:
                found = self._finds(header)
            except LookupError:
                found = None
            if found is None:
                raise UnknownKey("the function finds no key for its header (`kid`)")
            return [self._checked(found)]
        assert self._by_id is not None
        name = header.get("kid")
        if not isinstance(name, str):
            raise UnknownKey("it does not name its key: there is no `kid` in its header")
        found = self._by_id.get(name)
        if found is None:
            raise UnknownKey("its key (`kid`) is not one of those that are known")
        return [found]

    def _of_set(self, keys: Any) -> Mapping[str, object]:
        found: dict[str, object] = {}
        for jwk in keys.keys:
            if jwk.key_id is None:
                raise UsageError("a key of the set has no `kid`, which tokens could name it by")
            if (jwk.public_key_use or "sig") != "sig":
                continue
            found[jwk.key_id] = self._checked(jwk.key)
        if not found:
            raise UsageError("the set of keys holds none for signatures")
        return found

    def _of_mapping(self, keys: Mapping[str, Any]) -> Mapping[str, object]:
        if "keys" in keys and isinstance(keys["keys"], Sequence):
            try:
                return self._of_set(self._jwt.PyJWKSet.from_dict(dict(keys)))
            except (self._jwt.PyJWTError, TypeError, AttributeError) as exc:
                raise UsageError(f"this JWK set cannot be read: {exc}") from exc
        if not keys or not all(isinstance(name, str) for name in keys):
            raise UsageError("several keys are a dict, by the `kid` that tokens name them by")
        if "kty" in keys:
            raise UsageError('a single JWK has to be in a set: {"keys": [jwk]}')
        return {name: self._checked(key) for name, key in keys.items()}

    def _checked(self, key: object) -> object:
        """Return a key in the form that one of the algorithms accepts."""
        if isinstance(key, self._jwt.PyJWK):
            key = key.key
        if isinstance(key, os.PathLike) or _is_path(key):
            raise UsageError("a key is its text, not the path of a file: read the file")
        if key is None or isinstance(key, bool | int | float | list | tuple | set):
            raise UsageError(
                f"a key is a text or bytes, not {key if key is None else type(key).__name__}; "
                "several keys are a list, a dict by `kid`, a JWK set, or a function"
            )
        why = "no algorithm"
        for name in self._algorithms:
            try:
                prepared = self._jwt.algorithms.get_default_algorithms()[name].prepare_key(key)
            except (self._jwt.PyJWTError, TypeError, ValueError, AttributeError) as exc:
                why = f"{name}: {exc}"
                continue
            if hasattr(prepared, "private_bytes") or hasattr(prepared, "private_numbers"):
                raise UsageError("this is a private key: servers verify with the public one")
            least = _SECRET_BYTES.get(name, 0)
            if isinstance(prepared, bytes) and len(prepared) < least:
                raise UsageError(
                    f"the secret has {len(prepared)} bytes, and {name} needs {least} or more "
                    "(RFC 7518, section 3.2): make one with secrets.token_hex(32)"
                )
            return prepared
        raise UsageError(f"this key cannot be used for {why}")


def _checked_algorithms(algorithms: Sequence[str]) -> list[str]:
    from jwt.algorithms import get_default_algorithms, requires_cryptography

    if isinstance(algorithms, str):
        raise UsageError(f'algorithms are a list: ["{algorithms}"]')
    names = list(algorithms)
    known = get_default_algorithms()
    for name in names:
        if name not in known and name in requires_cryptography:
            raise UsageError(f"{name} needs more: pip install 'pyjwt[crypto]'")
        if name == "none" or name not in known:
            possible = ", ".join(sorted(known.keys() - {"none"}))
            raise UsageError(f"{name!r} is no algorithm of tokens that are signed: {possible}")
    symmetric = [name in _SECRET_BYTES for name in names]
    if not names or (any(symmetric) and not all(symmetric)):
        raise UsageError("algorithms must be given, all of one kind: HS… or asymmetric")
    return names


def _is_path(key: object) -> bool:
    text = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
    if not isinstance(text, str) or len(text) > 1024 or "\n" in text or "\0" in text:
        return False
    return text.lower().endswith(_KEY_FILES) or Path(text).is_file()
