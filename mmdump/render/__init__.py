"""Results as bytes: the only room that writes anything. It knows :mod:`mmdump.result` and nothing else."""

from __future__ import annotations

from typing import BinaryIO

from mmdump.errors import UsageError
from mmdump.render.base import FORMATS, FormatSpec, OneTable, Renderer, RenderOptions, format_of, register
from mmdump.render.csv import CsvRenderer
from mmdump.render.escape import escape
from mmdump.render.json import JsonRenderer
from mmdump.render.jsonl import JsonlRenderer
from mmdump.render.output import open_output
from mmdump.render.parquet import ParquetRenderer
from mmdump.render.query import Query, QueryStream
from mmdump.render.text import TextRenderer

__all__ = [
    "FORMATS",
    "FormatSpec",
    "OneTable",
    "Query",
    "QueryStream",
    "RenderOptions",
    "Renderer",
    "escape",
    "format_of",
    "open_output",
    "open_renderer",
    "register",
]

register(FormatSpec("text", TextRenderer, one_table=False, suffixes=(".txt",)))
register(FormatSpec("json", JsonRenderer, one_table=False, suffixes=(".json",)))
register(FormatSpec("jsonl", JsonlRenderer, one_table=True, suffixes=(".jsonl", ".ndjson")))
register(FormatSpec("csv", CsvRenderer, one_table=True, suffixes=(".csv",)))
register(FormatSpec("parquet", ParquetRenderer, one_table=True, suffixes=(".parquet", ".pq")))


def open_renderer(format: str, out: BinaryIO, options: RenderOptions | None = None) -> Renderer:  # noqa: A002
    """The renderer of that format, writing to ``out``.

    :raises UsageError: There is no such format.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}.", f"Formats: {', '.join(FORMATS)}.")
    return FORMATS[format].open(out, options or RenderOptions())
