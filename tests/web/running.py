"""Programs of the JavaScript world, for the tests of the client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
WEB: Final = ROOT / "src" / "wsbus" / "web"
TYPESCRIPT: Final = "7.0.2"
"""Other versions may write the declarations another way."""
ESBUILD: Final = "0.28.2"
ASYNCAPI: Final = "3.6.6"
TERSER: Final = "5.51.4"
"""Other versions may write the module another way."""

PACKAGES: Final = {
    "react": "19.3.1",
    "react-dom": "19.3.1",
    "@types/react": "19.3.3",
    "@types/react-dom": "19.3.0",
    "vite": "8.4.0",
    "webpack": "5.113.0",
    "esbuild": ESBUILD,
}
"""What pages are built with; the versions that were tried."""


def run_node_tests(node: str, *files: str, **environment: str) -> None:
    """Run files of this directory with ``node --test``; fail with what they printed."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    outcome = subprocess.run(
        [
            *(node, "--experimental-websocket", "--no-warnings", "--test-timeout=80000"),
            *("--test", "--test-reporter=spec"),
            *(str(Path(__file__).with_name(name)) for name in files),
        ],
        cwd=ROOT,
        env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=path, **environment),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if outcome.returncode != 0:
        pytest.fail(outcome.stdout + outcome.stderr, pytrace=False)


def find_tsc() -> str:
    """Return the TypeScript compiler: ``$WSBUS_TSC``, or on the path; else end the test."""
    return _find("WSBUS_TSC", "tsc", "typescript", TYPESCRIPT)


def find_esbuild() -> str:
    """Return the bundler: ``$WSBUS_ESBUILD``, or on the path; else end the test."""
    return _find("WSBUS_ESBUILD", "esbuild", "esbuild", ESBUILD)


def find_terser() -> str:
    """Return what makes it short: ``$WSBUS_TERSER``, or on the path; else end the test."""
    return _find("WSBUS_TERSER", "terser", "terser", TERSER)


def find_packages() -> Path:
    """Return the directory of packages, ``$WSBUS_JAVASCRIPT``; else end the test."""
    path = Path(os.environ.get("WSBUS_JAVASCRIPT", ""))
    if all((path / name / "package.json").is_file() for name in PACKAGES):
        return path
    wanted = " ".join(f"{name}@{version}" for name, version in PACKAGES.items())
    reason = (
        f"needs WSBUS_JAVASCRIPT=DIRECTORY/node_modules: npm install --prefix DIRECTORY {wanted}"
    )
    if os.environ.get("WSBUS_REQUIRE_SERVICES"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def find_asyncapi() -> str:
    """Return the parser of AsyncAPI: the package at ``$WSBUS_ASYNCAPI``; else end the test."""
    path = os.environ.get("WSBUS_ASYNCAPI", "")
    if Path(path, "package.json").is_file():
        return path
    reason = f"needs @asyncapi/parser {ASYNCAPI} at $WSBUS_ASYNCAPI: npm install @asyncapi/parser"
    if os.environ.get("WSBUS_REQUIRE_SERVICES"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _find(variable: str, program: str, package: str, version: str) -> str:
    path = shutil.which(os.environ.get(variable, program))
    if path is not None and version in version_of(path):
        return path
    reason = (
        f"needs {package}: npm install --prefix DIRECTORY {package}@{version}, then "
        f"{variable}=DIRECTORY/node_modules/.bin/{program}"
    )
    if os.environ.get("WSBUS_REQUIRE_SERVICES"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@cache
def version_of(program: str) -> str:
    """Return what a program says of its version."""
    command = [program, "--version"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
