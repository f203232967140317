"""Escaping text so that a terminal shows it and does not obey it."""

from __future__ import annotations

import json

import msgspec

__all__ = ["compact", "indented", "printable"]


def printable(text: str, *, in_lines: bool = False) -> str:
    """Escape characters that a terminal obeys, or that change the order in which it shows text.

    The escapes are those of JSON, so that a text within JSON keeps its meaning.

    Args:
        text: Any text.
        in_lines: Whether newlines stay.
    """
    if text.isprintable():
        return text
    kept = "\n" if in_lines else ""
    return "".join(c if c.isprintable() or c in kept else json.dumps(c)[1:-1] for c in text)


def compact(data: bytes) -> str:
    """Return JSON in one line, escaped for a terminal."""
    text = data.decode()
    if text.isprintable():
        return text
    return printable(msgspec.json.encode(msgspec.json.decode(data)).decode())


def indented(data: object) -> str:
    """Return JSON indented for people, escaped for a terminal."""
    text = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    return printable(text, in_lines=True)
