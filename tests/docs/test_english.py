"""Comments, docstrings, texts and documents are in plain English: things do things."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.documents import DOCUMENTS, ROOT

BANNED: Final = {
    r"who (is|it|has|may|can|speaks|gives|sends)": "name the thing: a client that …, the identity",
    r"whom": "name the thing: the members that match",
    r"shall": "must, or the present tense",
    r"oftener": "more often",
    r"(is|are|be) told": "gets, learns, is reported to; differ, for what is told apart",
    r"for ever": "without end, without a limit; a thing ends or does not",
    r"lets? [a-z ]*be done": "grants, allows",
    r"nobody's": "the thing that is missing: empty results",
    r"took offence": "reported an error",
    r"whoever": "name the thing: a client that …",
    r"goodbye": "a close frame",
    r"doors?|gates?": "endpoint, or adapter",
    r"(no|of|had|is|little|more|have) room|room (for|enough)": "a full queue, a writable socket",
    r"(command|connection) handlers?": "command; a handler is a framework's",
    r"(?<!context )managers?|utils?|helpers?": "the name of what it does",
}
"""Turns that take a second reading, and what to write instead."""

RELATIVE: Final = re.compile(r'r?"""\s*(who|whose|what|whatever|where)\b', re.IGNORECASE)
"""Docstrings whose subject is a relative clause."""

TURNS: Final = re.compile("|".join(rf"\b(?:{turn})\b" for turn in BANNED), re.IGNORECASE)


def prose_of_python(path: Path) -> Iterator[tuple[int, str]]:
    """Give comments and texts, each in one line; runs of comment lines are one comment."""
    comment, began = "", 0
    with io.StringIO(path.read_text(encoding="utf-8")) as lines:
        for token in tokenize.generate_tokens(lines.readline):
            match token.type:
                case tokenize.COMMENT:
                    began = began if comment else token.start[0]
                    comment += token.string.lstrip("#")
                case tokenize.NL | tokenize.NEWLINE:
                    pass
                case _:
                    if comment:
                        yield began, comment
                        comment = ""
                    if token.type == tokenize.STRING:
                        yield token.start[0], " ".join(token.string.split())


def prose_of_script(path: Path) -> Iterator[tuple[int, str]]:
    """Give the lines of a script or page that are comments or texts for people."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"\s*(//|/?\*|<)", line) or " // " in line:
            yield number, line


def prose_of_document(path: Path) -> Iterator[tuple[int, str]]:
    """Give the paragraphs of a document, a line each."""
    yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


def sources() -> list[Path]:
    kinds = ("*.py", "*.js", "*.ts", "*.html")
    return sorted(path for kind in kinds for path in (ROOT / "src").rglob(kind))


@pytest.mark.parametrize("what", ["src", "docs"])
def test_sentences_need_no_second_reading(what: str) -> None:
    """No banned turn stands in a comment, a docstring, a message or a document."""
    found = []
    for path in sources() if what == "src" else DOCUMENTS:
        prose = {".py": prose_of_python, ".md": prose_of_document}.get(path.suffix, prose_of_script)
        for number, text in prose(path):
            found += [
                f"{path.relative_to(ROOT)}:{number}: …{text[max(0, turn.start() - 30) :][:90]}…"
                for turn in TURNS.finditer(text)
            ]

    instead = [f"{turn} → {better}" for turn, better in BANNED.items()]
    assert not found, "\n".join([*found, "write instead:", *instead])


def test_docstrings_name_their_subject() -> None:
    """No docstring begins with a relative clause: "Who …", "What …", "Where …"."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {text[:80]}"
        for path in sources()
        if path.suffix == ".py"
        for number, text in prose_of_python(path)
        if RELATIVE.match(text)
    ]

    assert found == []
