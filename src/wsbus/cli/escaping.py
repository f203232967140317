"""Text that does nothing to a terminal."""

from __future__ import annotations

import json

import msgspec

__all__ = ["compact", "indented", "printable"]


def printable(text: str, *, in_lines: bool = False) -> str:
    """Escape what a terminal might obey, or show in another order than it stands in.

    What is escaped is so by the rules of JSON: within a text of JSON it means the same.

    Args:
        text: From anywhere.
        in_lines: Whether newlines stay.
    """
    if text.isprintable():
        return text
    kept = "\n" if in_lines else ""
    return "".join(c if c.isprintable() or c in kept else json.dumps(c)[1:-1] for c in text)


def compact(data: bytes) -> str:
    """Return JSON in a line, with nothing in it that a terminal might obey."""
    text = data.decode()
    if text.isprintable():
        return text
    return printable(msgspec.json.encode(msgspec.json.decode(data)).decode())


def indented(data: object) -> str:
    """Return JSON for people, in lines, with nothing in it that a terminal might obey."""
    text = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    return printable(text, in_lines=True)
