"""Results as bytes: the only room that writes anything. It knows :mod:`mmdump.result` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from mmdump.errors import UsageError
from mmdump.render.base import FORMATS, FormatSpec, OneTable, Renderer, RenderOptions, format_of, register
from mmdump.render.csv import CsvRenderer
from mmdump.render.escape import escape
from mmdump.render.folded import FoldedRenderer
from mmdump.render.json import JsonRenderer
from mmdump.render.jsonl import JsonlRenderer
from mmdump.render.output import open_output, visible
from mmdump.render.parquet import ParquetRenderer
from mmdump.render.pprof import PprofRenderer
from mmdump.render.query import Query, QueryStream
from mmdump.render.speedscope import SpeedscopeRenderer
from mmdump.render.stacks import StackRenderer
from mmdump.render.text import TextRenderer
from mmdump.render.tokens import ElsewhereError, NoColumnError

__all__ = [
    "FORMATS",
    "ElsewhereError",
    "FormatSpec",
    "NoColumnError",
    "OneTable",
    "Query",
    "QueryStream",
    "RenderOptions",
    "Renderer",
    "StackRenderer",
    "escape",
    "format_of",
    "open_output",
    "open_renderer",
    "register",
    "visible",
]

register(FormatSpec("text", TextRenderer, one_table=False, suffixes=(".txt", ".text", ".log")))
register(FormatSpec("json", JsonRenderer, one_table=False, suffixes=(".json",)))
register(FormatSpec("jsonl", JsonlRenderer, one_table=True, suffixes=(".jsonl", ".ndjson")))
register(FormatSpec("csv", CsvRenderer, one_table=True, suffixes=(".csv",)))
register(FormatSpec("parquet", ParquetRenderer, one_table=True, suffixes=(".parquet", ".pq")))
register(
    FormatSpec("folded", FoldedRenderer, one_table=True, suffixes=(".folded", ".collapsed"), stacks=True)
)
register(
    FormatSpec("speedscope", SpeedscopeRenderer, one_table=True, suffixes=(".speedscope.json",), stacks=True)
)
register(
    FormatSpec(
        "pprof", PprofRenderer, one_table=True, suffixes=(".pprof", ".pb.gz"), stacks=True, binary=True
    )
)


def open_renderer(
    format: str,  # noqa: A002
    out: BinaryIO,
    options: RenderOptions | None = None,
    formats: Mapping[str, FormatSpec] = FORMATS,
) -> Renderer:
    """The renderer of that format, writing to ``out``.

    :param formats: The formats there are.
    :raises UsageError: There is no such format, or it has no use for these options.
    """
    if format not in formats:
        raise UsageError(f"There is no format {format!r}.", f"Formats: {', '.join(formats)}.")
    options = options or RenderOptions()
    if options.weight is not None and not formats[format].stacks:
        stacks = ", ".join(name for name, spec in formats.items() if spec.stacks)
        raise UsageError(f"--weight says nothing to format {format}.", f"It is for formats {stacks}.")
    return formats[format].open(out, options)
