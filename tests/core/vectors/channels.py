"""Writes ``channels.json``: what names are, and how text becomes one, for every language.

The rule:

- ``forbidden`` is the table of code points, as first and last of each range in hexadecimal.
- ``segments`` escapes the texts of ``TEXTS``, and for each range of the table four texts: an
  ``a``, one code point, a ``b``. The code points are the first and the last of the range and their
  neighbours outside of it. ``+``, ``#`` and ``>`` are escaped where they stand alone, also between
  slashes.
- ``valid`` and ``invalid`` hold names by hand, and ``a.`` followed by each of these four texts.
- ``channels`` joins a head and names; ``channel`` is null where the result is refused.

Run ``python tests/core/vectors/channels.py`` after a change. The tests compare the file with what
this module makes, so it states escaping a second time, character by character.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Ranges = Iterable[tuple[int, int]]

FILE = Path(__file__).with_suffix(".json")
TEXTS = [
    *("", "alice", "General Chat", "ada@example.org", "C++ / C#", "50%", "v1.2", "it's", "(x)!"),
    *("+", "++", "a+b", "*", "**", "a*b", ".", "..", "a.b", "%", "%%", "%25", "%2e", "#", ">", "/"),
    *("+/a", "a/+", "a/+/b", "a/#", "a/>", "#/", "/", "//", "+/#/>", "C#", "a>b", "##", "#+", "->"),
    *("a/b", "BTC/USDT", "^GSPC", "600519", "-_.!~*'()", ";/?:@&=+$,#", '"\\<>[]{}|`', " ", "a b"),
    *(" a ", "a\tb", "a\nb", "\r\n", "\x00", "\x7f", "é", "e\u0301", "贵州茅台", "غرفة", "עברית"),
    *("🎉 party", "👨\u200d👩\u200d👧", "❤\ufe0f", "\ufeffa", "a\u200b", "\u202eabc", "\u3000"),
    *("\ud800", "\udfff", "a\ud800b", "a\udc00\ud800b", "\ue000", "\uffff", "\U0010ffff"),
    *("\u0378", "\u2065", "\U0001fae9", "__proto__", "constructor", "a" * 300),
]
VALID = [
    *("a", "system.health", "grid.grid_abc123.order", "BTC/USDT", "^GSPC", "600519", "a+b", "++"),
    *(
        "a.+b",
        "股票.贵州茅台",
        "100%",
        "a%2Eb",
        "##",
        "C#",
        "a.C#",
        "a>",
        "a/b",
        "a/b+",
        "/",
        "\u0378",
    ),
    *("a" * 255, "é" * 127, "贵" * 85, "😀" * 63, ".".join("abcdefghijklmnop"), "__proto__.x"),
]
INVALID = [
    *("", ".", "a.", ".a", "a..b", "*", "a.*", "a*", "**", "+", "a.+", "+.a", "a b", " a", "a\t"),
    *("#", "a.#", "#.a", ">", "a.>", "a/+/b", "+/a", "a/+", "x.a/#", "a/#.x", ">/a"),
    *("a\n", "a\u3000b", "a\u2028b", "a\x00b", "a\u200bb", "a\ud800", "a\ue000", "a\ufdd0"),
    *("a" * 256, "é" * 128, "贵" * 86, "😀" * 64, ".".join("abcdefghijklmnopq"), "." * 20),
]
CHANNELS: list[tuple[str, list[str]]] = [
    ("system", []),
    ("user", ["ada"]),
    ("user", ["ada@example.org", "inbox"]),
    ("grid.abc", ["a.b"]),
    ("room", [""]),
    ("room", ["", ""]),
    ("room", ["+", "*", "%", "#", ">"]),
    ("room", ["C++ / C#", "a/+/b", "#/"]),
    ("room", ["👨\u200d👩\u200d👧"]),
    ("room", ["\ud800"]),
    ("a/b", ["c/d"]),
    ("a", list("bcdefghijklmnop")),
    ("a", list("bcdefghijklmnopq")),
    ("room", ["a" * 250]),
    ("room", ["a" * 251]),
    ("room", [" " * 83]),
    ("room", [" " * 84]),
    ("room", ["贵" * 83]),
    ("room", ["贵" * 84]),
    *(
        (head, ["x"])
        for head in ("", "*", "+", "#", "a.>", "a/+", "a.", "a..b", "a b", "a.*", "a\u200b")
    ),
]


def make(forbidden: Ranges) -> dict[str, Any]:
    """Return what the file holds, for this table."""
    forbidden = list(forbidden)
    bad = {code for first, last in forbidden for code in range(first, last + 1)}
    edges = list(_edges(forbidden))
    texts = [*TEXTS, *(f"a{chr(code)}b" for code in edges)]
    inside = [f"a.a{chr(code)}b" for code in edges]
    return {
        "forbidden": [[f"{first:04X}", f"{last:04X}"] for first, last in forbidden],
        "segments": [{"text": text, "segment": _escape(text, bad)} for text in texts],
        "valid": [*VALID, *(name for name in inside if ord(name[3]) not in bad)],
        "invalid": [*INVALID, *(name for name in inside if ord(name[3]) in bad)],
        "channels": [
            {"head": head, "names": names, "channel": _channel(head, names, bad)}
            for head, names in CHANNELS
        ],
    }


def text_of(vectors: dict[str, Any]) -> str:
    """Return the text of the file: one vector a line, nothing but ASCII."""
    parts = []
    for key, values in vectors.items():
        lines = ",\n".join(f"    {json.dumps(value)}" for value in values)
        parts.append(f'  "{key}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _edges(forbidden: list[tuple[int, int]]) -> Iterator[int]:
    for first, last in forbidden:
        near = dict.fromkeys((first - 1, first, last, last + 1))
        yield from (code for code in near if 0 <= code <= 0x10FFFF)


def _escape(text: str, bad: set[int]) -> str:
    if not text:
        return "%"
    made = []
    for i, character in enumerate(text):
        is_alone = character in "+#>" and {text[:i][-1:], text[i + 1 :][:1]} <= {"", "/"}
        if ord(character) in bad or character in ".%*" or is_alone:
            code = character.encode("utf-8", "surrogatepass")
            made.append("".join(f"%{byte:02X}" for byte in code))
        else:
            made.append(character)
    return "".join(made)


def _channel(head: str, names: list[str], bad: set[int]) -> str | None:
    made = ".".join([head, *(_escape(name, bad) for name in names)])
    segments = made.split(".")
    is_wrong = (
        bool(bad.intersection(map(ord, made)))
        or "*" in made
        or "" in segments
        or not set("+#>").isdisjoint(made.replace("/", ".").split("."))
        or len(segments) > 16
        or len(made.encode()) > 255
    )
    return None if is_wrong else made


if __name__ == "__main__":
    from wsbus.core.channels import FORBIDDEN_CODES

    FILE.write_text(text_of(make(FORBIDDEN_CODES)), "ascii")
