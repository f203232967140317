from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

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
BUILD: Final = """
import sys
from hatchling.build import build_sdist, build_wheel
build_wheel(sys.argv[1])
build_sdist(sys.argv[1])
"""
KINDS: Final = {"css", "html", "js", "json", "py", "svg", "ts", "typed"}
"""What the wheel holds besides its metadata."""
IN_SDIST: Final = {"CHANGELOG.md", "docs", "examples", "src", "tests"}
ADDED: Final = {".gitignore", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
"""What the builder puts into each sdist."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with a wheel and an sdist of this tree."""
    if find_spec("hatchling") is None:
        pytest.skip("needs hatchling: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True, timeout=50)
    return folder


def tracked(*paths: str) -> set[str]:
    """Return the files there that are under version control; skip where nothing tells."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    command = [git, "ls-files", "-z", "--", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_holds_the_library_with_its_data_and_nothing_else(packages: Path) -> None:
    """Scripts, pages, styles and types are in it; no test, example or tool is."""
    (wheel,) = packages.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if not name.endswith("/")}
    version = wheel.name.split("-")[1]
    metadata = {name for name in names if name.startswith(f"wsbus-{version}.dist-info/")}

    assert {name.removeprefix("src/") for name in tracked("src")} <= names
    assert {name.split("/")[0] for name in names - metadata} == {"wsbus"}
    assert {name.rpartition(".")[2] for name in names - metadata} == KINDS
    assert not [name for name in names if "/test_" in name or "/conftest" in name]


def test_the_sdist_holds_what_one_builds_and_tests_with(packages: Path) -> None:
    """It has what its list in pyproject.toml names: no checks, no caches, nothing of a worktree."""
    (sdist,) = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {each.name.partition("/")[2] for each in archive if each.isfile()}

    assert {name.split("/")[0] for name in names} == IN_SDIST | ADDED
    assert tracked(*IN_SDIST) <= names
    assert not [name for name in names if name.endswith(".pyc") or "/generated/" in name]


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
