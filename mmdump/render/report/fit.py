"""Tables in a given width: what says nothing goes first, then columns from the right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from mmdump.render.layout import laid_out
from mmdump.result import Column, Table

__all__ = ["fitted", "shown_columns"]


def shown_columns(table: Table) -> list[Column]:
    """The columns of the default view, without those that say nothing in any row."""
    columns = [column for column in table.schema.columns if column.in_text]
    telling = [column for column in columns if not _silent(table.frame[column.name])]
    return telling or columns


def fitted(table: Table, rows: int, width: int) -> tuple[list[str], tuple[str, ...]]:
    """The first rows as lines of at most that width, and the names of columns for which there is no room."""
    first = table.frame.head(rows)
    columns = shown_columns(Table(table.schema, first))
    schema = replace(table.schema, columns=tuple(columns))
    laid = laid_out(Table(schema, first.select(schema.names)), width)
    return ["".join(text for text, _ in line) for line in laid.lines], laid.left_out


def _silent(series: pl.Series) -> bool:
    """Whether a column is absent, zero, false or empty in every row."""
    return not any(_says(value) for value in series.to_list())


def _says(value: Any) -> bool:
    return bool(value) and value != "-"
