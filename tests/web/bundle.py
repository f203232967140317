"""Makes the files that ship of those in ``src/wsbus/web/source``.

``python -m tests.web.bundle`` writes ``wsbus.js``, one minified module, and ``wsbus.d.ts``, the
types of what it exports. It needs esbuild, which joins the modules, terser, which makes them short,
and TypeScript, as the tests do (:mod:`tests.web.running`).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.web.running import ROOT, WEB, find_esbuild, find_terser, find_tsc

SOURCE: Final = WEB / "source"
BANNER: Final = "// wsbus.js, SPDX-License-Identifier: MIT\n"
_OWN: Final = (
    *("audience", "bytes", "connectTimeout", "disconnected", "dismiss", "dropped", "ending"),
    *("generation", "greets", "handler", "hasGivenUp", "hasRequests", "haveMissed", "holder"),
    *("holders", "inHandshake", "isAgain", "isBatched", "isCommand", "isFetched", "isHeld"),
    *("isIdempotent", "isKnown", "isLeaving", "isOffline", "isOpen", "isRenewal", "isSettled"),
    *("judge", "leave", "maxBytes", "maxNames", "missed", "nextIsCommand", "outcome", "patience"),
    *("postpone", "readyAt", "refill", "refused", "segments", "taken", "wasSent", "where"),
)
"""Properties that never leave the module, which get short names. None may be a word of the
protocol, of the client's own interface, of JavaScript or of the browser."""
FLAGS: Final = (
    *("--strict", "--allowJs", "--checkJs", "--target", "es2022", "--types", ""),
    *("--lib", "es2022,dom,dom.iterable", "--module", "esnext", "--moduleResolution", "bundler"),
    *("--noImplicitReturns", "--noUnusedLocals", "--ignoreConfig"),
)
_DECLARED: Final = ("types", "errors", "names", "wsbus")
_COMMENT: Final = re.compile(
    r"/\*\*(?:(?!\*/).)*?@(?:typedef|import)(?:(?!\*/).)*?\*/\n", re.DOTALL
)
_LINKS: Final = re.compile(r"^(?:import .*|export \{.*|export \* .*)\n", re.MULTILINE)


def bundle() -> str:
    """Return the client as one module."""
    joins = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--log-level=warning")
    short = ("--module", "--ecma", "2022", "--mangle", "--compress")
    how = "passes=5,ecma=2022,unsafe=true,unsafe_arrows=true,unsafe_methods=true"
    own = f"--mangle-props=^({'|'.join(_OWN)})$"
    joined = _run(find_esbuild(), str(SOURCE / "wsbus.js"), own, *joins)
    with TemporaryDirectory() as directory:
        file = Path(directory) / "joined.js"
        file.write_text(joined, encoding="utf-8")
        return BANNER + _run(find_terser(), str(file), *short, how)


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
