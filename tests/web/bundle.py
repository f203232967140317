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
    *("answer", "answered", "ask", "audience", "bytes", "check", "confirm", "connectTimeout"),
    *("count", "cut", "deadline", "deliver", "disconnected", "dismiss", "end", "ending"),
    *("fail", "forget", "generation", "greets", "handle", "handler", "hasGivenUp"),
    *("hasRequests", "haveMissed", "holder", "holders", "inHandshake", "isAgain", "isBatched"),
    *("isCommand", "isFetched", "isHeld", "isIdempotent", "isKnown", "isLeaving", "isOffline"),
    *("isOpen", "isRenewal", "isSettled", "judge", "key", "leave", "left", "lose", "maxBytes"),
    *("maxNames", "missed", "names", "number", "of", "outcome", "patience", "postpone"),
    *("readyAt", "ref", "refill", "refused", "remove", "rest", "segments", "socket", "stateOf"),
    *("take", "taken", "text", "together", "url", "wasSent", "where", "why"),
)
"""Properties that never leave the module, which get short names. None may be a word of the
protocol, of the client's own interface, of JavaScript or of the browser, as far as it is used."""
_WORDS: Final = (
    *("answer", "check", "confirm", "cut", "dead", "deadline", "dial", "dialling", "dismiss"),
    *("ended", "failed", "fetching", "fetchToken", "forget", "greeting", "hangUp", "heard"),
    *("later", "lose", "lost", "muchLater", "newToken", "noToken", "now", "opened", "pause"),
    *("request", "say", "stop", "tellConnected", "tellError", "tellGap", "tellReconnecting"),
    *("tellRefreshFailed", "wake"),
)
"""What inputs, actions, states and advice of a session are called: never seen outside, so that a
text with just that word gets short, too. A key of a table is written in quotes for this."""
FLAGS: Final = (
    *("--strict", "--allowJs", "--checkJs", "--target", "es2022", "--types", ""),
    *("--lib", "es2022,dom,dom.iterable", "--module", "esnext", "--moduleResolution", "bundler"),
    *("--noImplicitReturns", "--noUnusedLocals", "--ignoreConfig"),
)
_DECLARED: Final = ("types", "errors", "names", "wsbus")
_COMMENT: Final = re.compile(
    r"/\*\*(?:(?!\*/).)*?@(?:typedef|import)(?:(?!\*/).)*?\*/\n", re.DOTALL
)
_QUOTED: Final = re.compile(f'"({"|".join(_WORDS)})"')
_LINKS: Final = re.compile(r"^(?:import .*|export \{.*|export \* .*)\n", re.MULTILINE)


def bundle() -> str:
    """Return the client as one module."""
    joins = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--log-level=warning")
    short = ("--module", "--ecma", "2022", "--mangle", "--compress")
    how = "passes=5,ecma=2022,unsafe=true,unsafe_arrows=true,unsafe_methods=true"
    own = f"--mangle-props=^({'|'.join(_OWN)})$"
    with TemporaryDirectory() as directory:
        for file in SOURCE.glob("*.js"):
            text = _QUOTED.sub(_shorten, file.read_text("utf-8"))
            (Path(directory) / file.name).write_text(text, encoding="utf-8")
        joined = _run(find_esbuild(), str(Path(directory) / "wsbus.js"), own, *joins)
        made = Path(directory) / "joined.js"
        made.write_text(joined, encoding="utf-8")
        return BANNER + _run(find_terser(), str(made), *short, how)


def _shorten(quoted: re.Match[str]) -> str:
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
