"""What is not installed is named with the line that installs it."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

WITHOUT: Final = """
import sys
sys.modules[sys.argv.pop(1)] = None
code = sys.argv.pop(1)
try:
    exec(code)
except Exception as exc:
    print(f"{type(exc).__name__}: {exc}")
"""


@pytest.mark.parametrize(
    ("missing", "code", "words"),
    [
        (
            "gunicorn",
            "import wsbus.adapters.gunicorn",
            ["wsbus.adapters.gunicorn needs", "pip install 'wsbus[starlette]' gunicorn"],
        ),
        ("jwt", "import wsbus; wsbus.JWT('x' * 32)", ["JWT", "pip install 'wsbus[jwt]'"]),
        (
            "cryptography",
            "import wsbus; wsbus.JWT('x' * 32, algorithms=['RS256'])",
            ["RS256", "pip install 'pyjwt[crypto]'"],
        ),
    ],
    ids=["gunicorn", "JWT", "RS256"],
)
def test_code_that_needs_an_extra(missing: str, code: str, words: list[str]) -> None:
    """The error names who needs it, and what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, code],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert "Error: " in done.stdout
    assert all(word in done.stdout for word in words), done.stdout


@pytest.mark.parametrize(
    ("missing", "command", "words"),
    [
        ("click", "demo", "pip install 'wsbus[cli]'"),
        ("rich", "demo", "pip install 'wsbus[cli]'"),
        ("starlette", "demo", "pip install 'wsbus[demo]'"),
        ("uvicorn", "demo", "pip install 'wsbus[demo]'"),
        ("websockets", "tail ws://127.0.0.1:1 a", "pip install 'wsbus[client]'"),
        ("websockets", "pub ws://127.0.0.1:1 a 1", "pip install 'wsbus[client]'"),
        ("websockets", "call ws://127.0.0.1:1 a", "pip install 'wsbus[client]'"),
        ("jwt", "token make --subject ada --secret-env X", "pip install 'wsbus[jwt]'"),
    ],
)
def test_a_command_line_that_needs_an_extra(missing: str, command: str, words: str) -> None:
    """It ends with one line, and no traceback."""
    code = "from wsbus.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, code, *command.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env={"X": "change me: at least 32 bytes long", "PATH": ""},
    )
    assert done.returncode not in {0, 1} or "Error" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
