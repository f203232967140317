"""Makes the files that ship of those in ``src/wsbus/web/source``.

``python -m tests.web.bundle`` writes ``wsbus.js``, one minified module, and ``wsbus.d.ts``, the
types of what it exports. It needs esbuild, which joins the modules, terser, which makes them short,
and TypeScript, as the tests do (:mod:`tests.web.running`).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from string import ascii_letters
from tempfile import TemporaryDirectory
from typing import Final

from tests.web.running import ROOT, WEB, find_esbuild, find_terser, find_tsc

SOURCE: Final = WEB / "source"
BANNER: Final = "// SPDX-License-Identifier: MIT\n"
_OWN: Final = (
    *("answered", "ask", "asksAgain", "audience", "bytes", "connectTimeout", "count", "deliver"),
    *("disconnected", "end", "ending", "fail", "flush", "generation", "greets", "handle"),
    *("handler", "hasGivenUp", "hasRequests", "haveMissed", "holder", "holders", "inHandshake"),
    *("isCommand", "isCutShort", "isFetched", "isHeld", "isIdempotent", "isKnown"),
    *("isLeaving", "isOpen", "isRenewal", "isSettled", "judge", "key", "learn", "leave", "left"),
    *("maxBytes", "maxNames", "missed", "names", "number", "of", "patience", "postpone"),
    *("readyAt", "ref", "refill", "refused", "remove", "rest", "segments", "socket", "stateOf"),
    *("take", "taken", "text", "together", "url", "wasSent", "where"),
)
"""Properties that never leave the module, which get short names. None may be a word of the
protocol, of the client's own interface, of JavaScript or of the browser, as far as it is used."""
_CALLS: Final = (
    *("answer", "check", "confirm", "cut", "deadline", "dial", "dismiss", "failed", "fetchToken"),
    *("forget", "hangUp", "heard", "lose", "noToken", "opened", "pause", "request", "say", "stop"),
    *("tellConnected", "tellError", "tellGap", "tellReconnecting", "tellRefreshFailed", "wake"),
)
"""Inputs and actions of a session: such properties, and texts with just that word."""
_WORDS: Final = (
    *("dead", "dialling", "ended", "fetching", "greeting", "later", "muchLater", "newToken", "now"),
)
"""States and advice of a session: never seen outside, so that these texts get short, too."""
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
_LINKS: Final = re.compile(r"^(?:import .*|export \{.*|export \* .*)\n", re.MULTILINE)


def bundle() -> str:
    """Return the client as one module."""
    joins = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--log-level=warning")
    short = ("--module", "--ecma", "2022", "--mangle", "--compress")
    how = "passes=5,ecma=2022,unsafe=true,unsafe_arrows=true,unsafe_methods=true"
    own = f"--mangle-props=^({'|'.join((*_OWN, *_CALLS))})$"
    with TemporaryDirectory() as directory:
        for file in SOURCE.glob("*.js"):
            text = _QUOTED.sub(_shorten, file.read_text("utf-8"))
            (Path(directory) / file.name).write_text(text, encoding="utf-8")
        joined = _run(find_esbuild(), str(Path(directory) / "wsbus.js"), own, *joins)
        made = Path(directory) / "joined.js"
        made.write_text(joined, encoding="utf-8")
        return BANNER + _run(find_terser(), str(made), *short, how)


def _shorten(quoted: re.Match[str]) -> str:
    if quoted[1] in _CALLS:
        return f"/* @__KEY__ */ {quoted[0]}"  # esbuild takes the text for a property.
    return f'"{ascii_letters[_WORDS.index(quoted[1])]}"'


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
    (WEB / "wsbus.js").write_text(bundle(), encoding="utf-8")
    (WEB / "wsbus.d.ts").write_text(declarations(), encoding="utf-8")
