from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from wsbus._pyinstaller import get_hook_dirs

ROOT: Final = Path(__file__).parents[2]
WITHOUT: Final = """
import importlib, sys
missing, module = sys.argv[1:]
sys.modules[missing] = None
try:
    importlib.import_module(module)
except ImportError as exc:
    print(exc)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("wsbus.client", "websockets", "client"),
        ("wsbus.client.sync", "websockets", "client"),
        ("wsbus.adapters.websockets", "websockets", "websockets"),
        ("wsbus.adapters.aiohttp", "aiohttp", "aiohttp"),
        ("wsbus.adapters.starlette", "starlette", "starlette"),
        ("wsbus.adapters.uvicorn", "uvicorn", "starlette"),
        ("wsbus.adapters.uvicorn", "websockets", "starlette"),
        ("wsbus.adapters.fastapi", "fastapi", "fastapi"),
        ("wsbus.adapters.fastapi", "starlette", "fastapi"),
    ],
)
def test_a_missing_extra_is_named(module: str, package: str, extra: str) -> None:
    """Who imports what an extra brings is told what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, module],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert f"pip install 'wsbus[{extra}]'" in done.stdout
    assert module.removesuffix(".sync") in done.stdout


def test_pyinstaller_is_told_of_the_data_files() -> None:
    """The entry point that PyInstaller asks leads to the folder with the hook for wsbus."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pyinstaller40"] == {
        "hook-dirs": "wsbus._pyinstaller:get_hook_dirs"
    }
    (folder,) = get_hook_dirs()
    assert Path(folder, "hook-wsbus.py").is_file()
