"""The demo that ``wsbus demo`` serves; :mod:`.app` is the example to read."""
