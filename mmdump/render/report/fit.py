"""Tables in a given width: what says nothing goes first, then columns from the right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from mmdump.render.layout import Line, table_lines
from mmdump.render.values import value_text
from mmdump.result import Column, Kind, Table

__all__ = ["Fitted", "fitted", "lines_of", "shown_columns"]

_INDENT, _GAP = 2, 2
#: A column of text is not cut below this, nor below its header.
_LEAST = 12


@dataclass(frozen=True)
class Fitted:
    """The first rows of a table, in the columns that fit.

    :param left_out: The names of columns that do not.
    """

    table: Table
    left_out: tuple[str, ...]


def shown_columns(table: Table) -> list[Column]:
    """The columns of the default view, without those that say nothing in any row."""
    columns = [column for column in table.schema.columns if column.in_text]
    telling = [column for column in columns if not _silent(table.frame[column.name])]
    return telling or columns


def fitted(table: Table, rows: int, width: int) -> Fitted:
    """The first rows in as many columns as fit; call chains stand below their row and always do."""
    first = table.frame.head(rows)
    columns = shown_columns(Table(table.schema, first))
    left_out: list[str] = []
    while len(columns) > 1 and _width(columns, first) > width:
        last = next(
            (index for index in reversed(range(len(columns))) if columns[index].kind is not Kind.STACK), 0
        )
        left_out.insert(0, columns.pop(last).name)
    schema = replace(table.schema, columns=tuple(columns))
    return Fitted(Table(schema, first.select(schema.names)), tuple(left_out))


def lines_of(table: Table, width: int) -> list[str]:
    """The table as lines of text of at most that width."""
    return ["".join(text for text, _ in line) for line in _lines(table, width)]


def _lines(table: Table, width: int) -> list[Line]:
    return table_lines(table, width)


def _silent(series: pl.Series) -> bool:
    """Whether a column is absent, zero, false or empty in every row."""
    return not any(_says(value) for value in series.to_list())


def _says(value: Any) -> bool:
    return bool(value) and value != "-"


def _width(columns: list[Column], frame: pl.DataFrame) -> int:
    """The least width of these columns side by side."""
    widths = [_least(column, frame[column.name]) for column in columns if column.kind is not Kind.STACK]
    return _INDENT + sum(widths) + _GAP * (len(widths) - 1)


def _least(column: Column, series: pl.Series) -> int:
    from rich.cells import cell_len

    texts = [cell_len(value_text(value, column.kind)) for value in series.to_list()]
    natural = max([len(column.name), *texts])
    if series.dtype.is_numeric() and column.kind is not Kind.BOOL:
        return natural
    return min(natural, max(_LEAST, len(column.name)))
