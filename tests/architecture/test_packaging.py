from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

from wsbus._pyinstaller import get_hook_dirs

ROOT: Final = Path(__file__).parents[2]
WITHOUT: Final = """
import importlib, json, os, sys
import wsbus
for module, missing in json.loads(sys.argv[1]):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    sys.modules[missing] = None
    try:
        importlib.import_module(module)
    except ImportError as exc:
        print(str(exc).replace(chr(10), " "), flush=True)
    os._exit(0)
"""
EXTRAS: Final = (
    ("wsbus.client", "websockets", "client"),
    ("wsbus.client.sync", "websockets", "client"),
    ("wsbus.adapters.websockets", "websockets", "websockets"),
    ("wsbus.adapters.websockets_trio", "trio", "trio"),
    ("wsbus.adapters.websockets_trio", "websockets", "trio"),
    ("wsbus.adapters.webrtc", "aiortc", "webrtc"),
    ("wsbus.opentelemetry", "opentelemetry", "opentelemetry"),
    ("wsbus.adapters.aiohttp", "aiohttp", "aiohttp"),
    ("wsbus.adapters.starlette", "starlette", "starlette"),
    ("wsbus.adapters.uvicorn", "uvicorn", "starlette"),
    ("wsbus.adapters.uvicorn", "websockets", "starlette"),
    ("wsbus.adapters.fastapi", "fastapi", "fastapi"),
    ("wsbus.adapters.fastapi", "starlette", "fastapi"),
    ("wsbus.prometheus", "prometheus_client", "prometheus"),
)
"""A module, a package that is missing, and the extra that brings it."""


def test_a_missing_extra_is_named() -> None:
    """Who imports what an extra brings is told what to install."""
    cases = [(module, package) for module, package, _ in EXTRAS]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    for (module, _, extra), said in zip(EXTRAS, done.stdout.splitlines(), strict=True):
        assert f"pip install 'wsbus[{extra}]'" in said
        assert module.removesuffix(".sync") in said


def test_pyinstaller_is_told_of_the_data_files() -> None:
    """The entry point that PyInstaller asks leads to the folder with the hook for wsbus."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pyinstaller40"] == {
        "hook-dirs": "wsbus._pyinstaller:get_hook_dirs"
    }
    (folder,) = get_hook_dirs()
    assert Path(folder, "hook-wsbus.py").is_file()
