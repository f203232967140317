"""Descriptions of a bus for other programs: JSON Schema, AsyncAPI 3 and TypeScript.

They are made from the typed channels (:meth:`.Bus.channel`) and the commands (:meth:`.Bus.command`)
of a bus, which need not run. ``wsbus schema`` prints them.
"""

from __future__ import annotations

from .as_asyncapi import asyncapi
from .as_typescript import typescript
from .declared import json_schema

__all__ = ["asyncapi", "json_schema", "typescript"]
