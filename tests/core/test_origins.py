from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus import UsageError
from wsbus.core.origins import is_same_host, normal_origin, parse_origins


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com/", "https://example.com"),
        ("HTTPS://Example.COM", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:80/", "http://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://localhost:05173", "http://localhost:5173"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
    ],
)
def test_what_is_clear_is_put_right(written: str, sent: str) -> None:
    """An origin that is listed is compared in the form in which browsers send it."""
    assert parse_origins([written]) == frozenset({sent})


@pytest.mark.parametrize(
    ("origin", "cure"),
    [
        ("example.com", "'https://example.com'"),
        ("localhost:5173", "'http://localhost:5173'"),
        ("https://example.com/app", "'https://example.com'"),
        ("https://example.com?x", "'https://example.com'"),
        ("wss://example.com", "'https://example.com'"),
        ("ws://example.com", "'http://example.com'"),
        ("https://*.example.com", "wildcards"),
        ("*.example.com", "wildcards"),
        ("https://user@example.com", "browser"),
        ("https://example.com:99999", "browser"),
        ("https://example.com:http", "browser"),
        ("https://", "browser"),
        ("https://a b", "browser"),
        ("", "browser"),
        (" https://example.com", "browser"),
    ],
)
def test_what_can_never_match_is_refused(origin: str, cure: str) -> None:
    """With the origin, and what to write instead."""
    with pytest.raises(UsageError) as refused:
        parse_origins(["https://good.example", origin])
    assert repr(origin) in str(refused.value)
    assert cure in str(refused.value) or origin == ""


@pytest.mark.parametrize("origins", ["https://example.com", "all", 5, [5], [b"x"], None])
def test_what_is_no_collection_of_texts_is_refused(origins: Any) -> None:
    """A text alone would be taken letter by letter."""
    with pytest.raises(UsageError):
        parse_origins(origins)


def test_words_mean_the_same_in_a_list() -> None:
    """`["*"]` is clear; among others it is refused."""
    assert parse_origins(["*"]) == parse_origins("*") == "*"
    assert parse_origins(["same-host"]) == "same-host"
    assert parse_origins([]) == frozenset()
    with pytest.raises(UsageError):
        parse_origins(["*", "https://example.com"])


@given(st.text(max_size=40))
def test_normal_form_is_stable(text: str) -> None:
    """What is in normal form stays as it is, and any text may be asked about."""
    found = normal_origin(text)
    assert found is None or normal_origin(found) == found
    assert is_same_host(text, text) in {True, False}
