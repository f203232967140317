"""The command ``wsbus``; without the extra ``cli`` it says what to install."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from .cli import wsbus

        wsbus(prog_name="wsbus")
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] not in {"click", "rich"}:
            raise
        print("The command line needs more: pip install 'wsbus[cli]'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
