"""Makes the files that ship of those in ``src/wsbus/web/source``.

``python -m tests.web.bundle`` writes ``wsbus.js``, one minified module, ``wsbus-http.js``, which it
loads where no WebSocket gets through, and ``wsbus.d.ts``, the types of what it exports. It needs
esbuild, which joins the modules, terser, which makes them short, and TypeScript, as the tests do
(:mod:`tests.web.running`).

``python -m tests.web.bundle names`` first looks for short names of properties that make the module
smaller, for two minutes.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from string import ascii_letters
from tempfile import TemporaryDirectory
from typing import Final

from tests.web.running import ROOT, WEB, find_esbuild, find_terser, find_tsc

SOURCE: Final = WEB / "source"
BANNER: Final = "// SPDX-License-Identifier: MIT\n"
NAMES: Final = Path(__file__).with_name("names.json")
"""Properties that never leave the module, and the short names that they get. None may be a word of
the protocol, of the client's own interface, of JavaScript or of the browser, as far as it is used.
Which short name each has matters little alone, but 100 bytes in sum once the module is gzipped."""
_CALLS: Final = (
    *("answer", "check", "confirm", "cut", "deadline", "dial", "dismiss", "failed", "fetchToken"),
    *("forget", "hangUp", "heard", "lose", "noToken", "opened", "pause", "request", "say", "stop"),
    *("tellConnected", "tellError", "tellGap", "tellPresence", "tellReconnecting"),
    *("tellRefreshFailed", "wake"),
)
"""Inputs and actions of a session: such properties, and texts with just that word."""
_WORDS: Final = ("dead", "later", "muchLater", "newToken", "now")
"""Advice within a session: never seen outside, so that these texts get short, too."""
FLAGS: Final = (
    *("--strict", "--allowJs", "--checkJs", "--target", "es2022", "--types", ""),
    *("--lib", "es2022,dom,dom.iterable", "--module", "esnext", "--moduleResolution", "bundler"),
    *("--noImplicitReturns", "--noUnusedLocals", "--ignoreConfig"),
)
_DECLARED: Final = ("types", "errors", "names", "wsbus")
_COMMENT: Final = re.compile(
    r"/\*\*(?:(?!\*/).)*?@(?:typedef|import)(?:(?!\*/).)*?\*/\n", re.DOTALL
)
_QUOTED: Final = re.compile(f'(?<!\\{{)(?<!\\| )"({"|".join((*_CALLS, *_WORDS))})"')
_PLACE: Final = re.compile(r"\be(\d+)e\b")
_LINKS: Final = re.compile(r"^(?:import .*|export \{.*|export \* .*)\n", re.MULTILINE)


def bundle() -> str:
    """Return the client as one module."""
    names: dict[str, str] = json.loads(NAMES.read_text("utf-8"))
    return _name(_join(names), list(names.values()))


def _join(names: Iterable[str]) -> str:
    """Return the module, where the nth of the names is ``e{n}e``."""
    joins = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--log-level=warning")
    short = ("--module", "--ecma", "2022", "--mangle", "--compress")
    unsafe = "unsafe=true,unsafe_arrows=true,unsafe_math=true,unsafe_methods=true"
    with TemporaryDirectory() as directory:
        place = Path(directory)
        for file in SOURCE.glob("*.js"):
            text = _QUOTED.sub(_shorten, file.read_text("utf-8"))
            (place / file.name).write_text(text, encoding="utf-8")
        cache = place / "names.json"
        cache.write_text(json.dumps({name: f"e{number}e" for number, name in enumerate(names)}))
        own = (
            "--external:./wsbus-http.js",
            f"--mangle-props=^({'|'.join(names)})$",
            f"--mangle-cache={cache}",
        )
        joined = place / "joined.js"
        made = _run(find_esbuild(), str(place / "wsbus.js"), *own, *joins)
        joined.write_text(made, encoding="utf-8")
        how = f"passes=5,ecma=2022,lhs_constants=false,{unsafe}"
        return BANNER + _run(find_terser(), str(joined), *short, how)


def bundle_http() -> str:
    """Return the way over HTTP as one module, which the client loads where it needs it."""
    joins = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--log-level=warning")
    short = ("--module", "--ecma", "2022", "--mangle", "--compress")
    with TemporaryDirectory() as directory:
        joined = Path(directory) / "joined.js"
        made = _run(find_esbuild(), str(SOURCE / "wsbus-http.js"), *joins)
        joined.write_text(made, encoding="utf-8")
        return BANNER + _run(find_terser(), str(joined), *short)


def _name(text: str, short: Sequence[str]) -> str:
    return _PLACE.sub(lambda place: short[int(place[1])], text)


def search(seconds: float) -> None:
    """Exchange short names while the gzipped module gets smaller; write the best ones."""
    names: dict[str, str] = json.loads(NAMES.read_text("utf-8"))
    text = _join(names)
    pairs = {one + other for one in "aenorst" for other in "aenorst"}
    taken = set(re.findall(r"\b\w\w\b", text))
    short = [*names.values()]
    short += sorted({*ascii_letters, "$", "_", *pairs - taken} - {*short})
    best = len(gzip.compress(_name(text, short).encode(), 9))
    chance = Random(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        one, other = chance.randrange(len(names)), chance.randrange(len(short))
        short[one], short[other] = short[other], short[one]
        size = len(gzip.compress(_name(text, short).encode(), 9))
        if size > best:
            short[one], short[other] = short[other], short[one]
        best = min(best, size)
    found = dict(zip(names, short, strict=False))
    NAMES.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shorten(quoted: re.Match[str]) -> str:
    if quoted[1] in _CALLS:
        return f"/* @__KEY__ */ {quoted[0]}"  # esbuild takes the text for a property.
    return f'"{_WORDS.index(quoted[1])}"'  # No property has such a name.


def declarations() -> str:
    """Return the types of what the module exports, without those of its parts."""
    with TemporaryDirectory() as directory:
        emit = ("--declaration", "--emitDeclarationOnly", "--outDir", directory)
        _run(find_tsc(), *FLAGS, *emit, str(SOURCE / "wsbus.js"))
        texts = [(Path(directory) / f"{name}.d.ts").read_text("utf-8") for name in _DECLARED]
    joined = "".join(_LINKS.sub("", _COMMENT.sub("", text)) for text in texts)
    joined = re.sub(r"^// .*\n", "", joined, flags=re.MULTILINE)
    return re.sub(r'import\("[^"]*"\)\.', "", joined) + "export {};\n"


def _run(*command: str) -> str:
    outcome = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    if outcome.returncode != 0:
        raise AssertionError(outcome.stdout + outcome.stderr)
    return outcome.stdout


if __name__ == "__main__":
    if "names" in sys.argv:
        search(120)
    (WEB / "wsbus.js").write_text(bundle(), encoding="utf-8")
    (WEB / "wsbus-http.js").write_text(bundle_http(), encoding="utf-8")
    (WEB / "wsbus.d.ts").write_text(declarations(), encoding="utf-8")
