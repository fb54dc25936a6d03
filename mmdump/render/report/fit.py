"""Tables in a given width: what says nothing goes first, then columns from the right."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from mmdump.render.escape import escape
from mmdump.render.layout import cut
from mmdump.render.values import value_text
from mmdump.result import Column, Kind, Table

__all__ = ["Fitted", "fitted", "lines_of", "shown_columns"]

_INDENT, _GAP = 2, 2
_FRAME = " " * 6
#: A column of text is not made narrower than this, nor than its header.
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
    """The table as lines of at most that width: what is too long for its column goes on below.

    Call chains stand below their row, one frame to a line.
    """
    frame, schema = table.frame, table.schema
    columns = [_cells(column, frame) for column in schema.columns if column.kind is not Kind.STACK]
    _shrink(columns, width)
    chains = [frame[column.name].to_list() for column in schema.columns if column.kind is Kind.STACK]
    lines = _row([(cells, cells.header) for cells in columns], width)
    for row in range(frame.height):
        lines += _row([(cells, cells.texts[row]) for cells in columns], width)
        for chain in chains:
            lines += [cut(_FRAME + escape(str(frame)), width) for frame in chain[row] or ()]
    return lines


@dataclass
class _Cells:
    """One column: its header and texts."""

    header: str
    texts: list[str]
    right: bool
    width: int


def _cells(column: Column, frame: pl.DataFrame) -> _Cells:
    from rich.cells import cell_len

    series = frame[column.name]
    header, texts = escape(column.name).upper(), [value_text(each, column.kind) for each in series.to_list()]
    right = series.dtype.is_numeric() and column.kind is not Kind.BOOL
    return _Cells(header, texts, right, max(map(cell_len, [header, *texts])))


def _shrink(columns: list[_Cells], width: int) -> None:
    """Take from the widest columns of text until a line fits, or nothing is left to take."""
    excess = _INDENT + sum(cells.width for cells in columns) + _GAP * (len(columns) - 1) - width
    while excess > 0:
        wide = [
            cells for cells in columns if not cells.right and cells.width > max(_LEAST, len(cells.header))
        ]
        if not wide:
            return
        max(wide, key=lambda cells: cells.width).width -= 1
        excess -= 1


def _row(row: list[tuple[_Cells, str]], width: int) -> list[str]:
    pieces = [textwrap.wrap(text, max(cells.width, 1)) or [""] for cells, text in row]
    lines = []
    for index in range(max(map(len, pieces), default=0)):
        texts = [
            _aligned(piece[index] if index < len(piece) else "", cells)
            for piece, (cells, _) in zip(pieces, row, strict=True)
        ]
        lines.append(cut((" " * _INDENT + (" " * _GAP).join(texts)).rstrip(), width))
    return lines


def _aligned(text: str, cells: _Cells) -> str:
    from rich.cells import cell_len

    text = cut(text, cells.width)
    blanks = " " * (cells.width - cell_len(text))
    return blanks + text if cells.right else text + blanks


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
