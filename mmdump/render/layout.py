"""Lines of text: columns aligned and made to fit a terminal, and colour. rich knows widths and colours."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mmdump.render.escape import escape
from mmdump.render.values import value_text
from mmdump.result import Column, Kind, Table

__all__ = ["Line", "cut", "painted", "table_lines"]

#: A line: pieces of text, each with a style of rich or "".
Line = list[tuple[str, str]]

_INDENT = "  "
_GAP = "  "
_FRAME_INDENT = " " * 6
#: A column of text is not cut below this, nor below its header.
_LEAST = 8
_ELLIPSIS = "…"


@dataclass
class _Cells:
    """One column of a table: its header and texts, all of one width."""

    header: str
    texts: list[str]
    right: bool
    width: int = 0


def table_lines(table: Table, width: int | None) -> list[Line]:
    """The header and one line per row, indented, columns two spaces apart.

    Call chains stand below their row, one frame to a line, as every tool prints stacks.

    :param width: Columns of text are cut with an ellipsis until lines fit. A line that is still too long,
        because of numbers, is cut as a whole: wrapped rows cannot be read. None cuts nothing.
    """
    from rich.cells import cell_len

    frame = table.frame
    stacks = [column.name for column in table.schema.columns if column.kind is Kind.STACK]
    columns = [_cells(column, frame) for column in table.schema.columns if column.kind is not Kind.STACK]
    for cells in columns:
        cells.width = max(map(cell_len, [cells.header, *cells.texts]))
    if width is not None:
        _fit(columns, width)
    chains = [frame[name].to_list() for name in stacks]
    texts: list[tuple[str, str]] = []
    if columns:
        texts.append((_join([(cells, cells.header) for cells in columns]), "bold"))
    for row in range(frame.height):
        if columns:
            texts.append((_join([(cells, cells.texts[row]) for cells in columns]), ""))
        for chain in chains:
            texts += [(_FRAME_INDENT + escape(str(each)), "") for each in chain[row] or ()]
    return [[(text if width is None else cut(text, width), style)] for text, style in texts]


def _cells(column: Column, frame: pl.DataFrame) -> _Cells:
    series = frame[column.name]
    texts = [value_text(value, column.kind) for value in series.to_list()]
    right = series.dtype.is_numeric() and column.kind is not Kind.BOOL
    return _Cells(escape(column.name).upper(), texts, right)


def _fit(columns: list[_Cells], width: int) -> None:
    """Take from the widest columns of text until a line fits or nothing is left to take."""
    from rich.cells import cell_len

    least = {id(cells): max(_LEAST, cell_len(cells.header)) for cells in columns}
    excess = len(_INDENT) + sum(cells.width for cells in columns) + len(_GAP) * (len(columns) - 1) - width
    while excess > 0:
        wide = [cells for cells in columns if not cells.right and cells.width > least[id(cells)]]
        if not wide:
            return
        max(wide, key=lambda cells: cells.width).width -= 1
        excess -= 1


def _join(cells: list[tuple[_Cells, str]]) -> str:
    return (
        _INDENT + _GAP.join(_aligned(text, column.width, column.right) for column, text in cells)
    ).rstrip()


def _aligned(text: str, width: int, right: bool) -> str:
    from rich.cells import cell_len

    text = cut(text, width)
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def cut(text: str, width: int) -> str:
    """The text in at most so many columns of a terminal, an ellipsis standing for what is cut."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + _ELLIPSIS if width > 0 else ""


def painted(line: Line, color: bool) -> bytes:
    """The line with its newline, in UTF-8.

    Styles are rendered piece by piece and no markup is ever parsed, so that nothing in the data is obeyed.
    """
    return ("".join(_styled(text, style) if color else text for text, style in line) + "\n").encode()


def _styled(text: str, style: str) -> str:
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD) if style else text
