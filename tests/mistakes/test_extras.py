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
