"""JSON Lines: one table, one object per line, written as rows come."""

from __future__ import annotations

from io import BytesIO

import polars as pl

from mmdump.render.base import OneTable
from mmdump.render.flat import hex_addresses
from mmdump.result import Schema

__all__ = ["JsonlRenderer", "json_lines"]


def json_lines(schema: Schema, frame: pl.DataFrame) -> bytes:
    """The rows as JSON objects, each ending in a newline; there is no other newline."""
    buffer = BytesIO()
    hex_addresses(schema, frame).write_ndjson(buffer)
    return buffer.getvalue()


class JsonlRenderer(OneTable):
    """Writes the rows of one table; a table without rows is an empty file."""

    def head(self, schema: Schema) -> None:
        """Nothing: every line says its own names."""

    def body(self, schema: Schema, frame: pl.DataFrame) -> None:
        """One line per row."""
        self.out.write(json_lines(schema, frame))
