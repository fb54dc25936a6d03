"""CSV: one table, a header always, written as rows come."""

from __future__ import annotations

from io import BytesIO

import polars as pl

from mmdump.render.base import OneTable
from mmdump.render.flat import hex_addresses, joined_lists
from mmdump.result import Schema

__all__ = ["CsvRenderer"]


class CsvRenderer(OneTable):
    """Writes plain numbers, ``0x`` addresses and true or false.

    What is absent is an empty field, and an empty text is ``""``. Lists are joined as
    :func:`mmdump.render.flat.joined_lists` says.
    """

    def head(self, schema: Schema) -> None:
        """The names of the columns."""
        names = pl.DataFrame(schema=dict.fromkeys(schema.names, pl.String))
        self.out.write(_csv(names, header=True))

    def body(self, schema: Schema, frame: pl.DataFrame) -> None:
        """One record per row."""
        self.out.write(_csv(joined_lists(hex_addresses(schema, frame)), header=False))


def _csv(frame: pl.DataFrame, header: bool) -> bytes:
    buffer = BytesIO()
    frame.write_csv(buffer, include_header=header, null_value="")
    return buffer.getvalue()
