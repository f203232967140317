"""The npm package as users get it: packed, installed beside others, and built into pages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tests.web.running import WEB, find_packages

FIXTURE: Final = Path(__file__).with_name("react")


class Project:
    """A project of a user, with the packed package among its modules.

    Args:
        place: An empty directory.
        node: Node.
    """

    def __init__(self, place: Path, node: str) -> None:
        self.place: Final = place
        self.packages: Final = find_packages()
        self.node: Final = node
        modules = place / "node_modules"
        modules.mkdir()
        (modules / "@types").mkdir()
        for name in ("react", "react-dom", "@types/react", "@types/react-dom"):
            (modules / name).symlink_to(self.packages / name, target_is_directory=True)
        (place / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
        tarball = self.run("npm", "pack", str(WEB), "--silent").strip().splitlines()[-1]
        with tarfile.open(place / tarball) as packed:
            packed.extractall(place, filter="data")
        (place / "package").rename(modules / "wsbus")

    def run(self, *command: str) -> str:
        """Run a program here; return what it printed, fail with it if it fails."""
        # In React's development build, StrictMode mounts each component twice.
        outcome = subprocess.run(
            command,
            cwd=self.place,
            env=dict(os.environ, NODE_ENV="development"),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if outcome.returncode != 0:
            pytest.fail(outcome.stdout + outcome.stderr, pytrace=False)
        return outcome.stdout

    def tool(self, path: str, *arguments: str) -> str:
        """Run a program of the installed packages, by its path there."""
        return self.run(self.node, str(self.packages / path), *arguments)

    def vite(self, *arguments: str) -> None:
        """Build with Vite."""
        common = (
            "--base",
            "./",
            "--mode",
            "development",
            "--logLevel",
            "warn",
            "--configLoader",
            "native",
        )
        self.tool("vite/bin/vite.js", "build", *common, *arguments)

    def page(self) -> Path:
        """Build the page of the hooks, with what a server renders in it; return its directory."""
        shutil.copytree(FIXTURE, self.place, dirs_exist_ok=True)
        self.vite()
        self.vite("--ssr", "server.jsx", "--outDir", "rendered")
        self.run(self.node, "rendered/server.js")
        return self.place / "dist"
