"""Lines of text: columns aligned and made to fit a terminal, and colour. rich knows widths and colours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from mmdump.render.escape import escape
from mmdump.render.values import value_text
from mmdump.result import Column, Kind, Table

__all__ = ["LaidOut", "Line", "laid_out", "painted", "wrapped"]

#: A line: pieces of text, each with a style of rich or "".
Line = list[tuple[str, str]]

_INDENT = "  "
_GAP = "  "
_FRAME_INDENT = " " * 6
#: A column of text is not made narrower than its longest word, so long as that is shorter than this.
_LEAST = 16
#: Above this, texts are broken rather than the headers of numbers.
_COMFORTABLE = 32
#: What a text is broken behind: a blank, or what joins words that have none between them; a header's words
#: are joined by underscores.
_PIECES = re.compile(r"[^\s|,;/]*(?:[|,;/]+\s*|\s+|$)")
_HEADER_PIECES = re.compile(r"[^_]*(?:_+|$)")


@dataclass(frozen=True)
class LaidOut:
    """A table as lines.

    :param left_out: The names of columns for which there was no room.
    """

    lines: list[Line]
    left_out: tuple[str, ...] = ()


@dataclass(eq=False)
class _Cells:
    """One column of a table: its header and texts, all of one width.

    :param least: The width below which it says nothing any more.
    :param silent: Whether it is absent, zero, false or empty in every row.
    """

    name: str
    header: str
    texts: list[str]
    right: bool
    silent: bool
    width: int = 0
    least: int = 0


def laid_out(table: Table, width: int | None) -> LaidOut:
    """The header and one line per row, indented, columns two spaces apart.

    Call chains stand below their row, one frame to a line, as every tool prints stacks. Nothing is cut: text
    that is too long for its column goes on below.

    :param width: What no line is longer than: headers and columns of text are made narrower, long lists of
        one element per line stand below their row as call chains do, and if that will not do columns are
        left out, first those that say nothing in any row, then from the right. None leaves lines as long as
        they are.
    """
    frame = table.frame
    columns, below = [], []
    for column in table.schema.columns:
        cells = None if column.kind is Kind.STACK else _cells(column, frame)
        if cells is None or (width is not None and column.per_line and cells.width * 2 > width):
            below.append(column.name)
        else:
            columns.append(cells)
    left_out: list[str] = []
    if width is not None:
        left_out = _fit(columns, width)
    chains = [frame[name].to_list() for name in below]
    texts = [(text, "bold") for text in _row(columns, [_header(cells, width) for cells in columns])]
    for row in range(frame.height):
        pieces = [_pieces(cells, cells.texts[row], width) for cells in columns]
        texts += [(text, "") for text in _row(columns, pieces)]
        for chain in chains:
            for each in chain[row] or ():
                texts += [(text, "") for text in _below(escape(str(each)), width)]
    return LaidOut([[(text, style)] for text, style in texts], tuple(left_out))


def _cells(column: Column, frame: pl.DataFrame) -> _Cells:
    from rich.cells import cell_len

    series = frame[column.name]
    values = series.to_list()
    texts = [value_text(value, column.kind) for value in values]
    right = series.dtype.is_numeric() and column.kind is not Kind.BOOL
    silent = not any(bool(value) and value != "-" for value in values)
    cells = _Cells(column.name, escape(column.name).upper(), texts, right, silent)
    cells.width = max(map(cell_len, [cells.header, *texts]))
    header = max(map(cell_len, _HEADER_PIECES.findall(cells.header)))
    # Numbers are not broken.
    words = texts if right else [word.rstrip() for text in texts for word in _PIECES.findall(text)]
    longest = max(map(cell_len, words), default=0)
    cells.least = max(header, longest if right else min(longest, _LEAST))
    return cells


def _fit(columns: list[_Cells], width: int) -> list[str]:
    """Make columns narrower until a line fits, and drop some if that is not enough: their names."""
    every = list(columns)
    while len(columns) > 1 and _line(each.least for each in columns) > width:
        silent = [index for index, cells in enumerate(columns) if cells.silent and index]
        columns.pop(silent[-1] if silent else -1)
    # What one wide column left out, narrow ones may need.
    for cells in every:
        more = [each for each in every if each is cells or each in columns]
        if not cells.silent and cells not in columns and _line(each.least for each in more) <= width:
            columns[:] = more
    excess = _line(each.width for each in columns) - width
    while excess > 0:
        wide = [cells for cells in columns if cells.width > cells.least]
        if not wide:
            break
        # Long texts give way before headers do, and these before short texts.
        long = [cells for cells in wide if cells.width > _COMFORTABLE and not cells.right]
        headers = [cells for cells in wide if cells.right]
        max(long or headers or wide, key=lambda cells: cells.width).width -= 1
        excess -= 1
    for cells in columns:
        # One that is left alone is broken wherever it must.
        cells.width = max(min(cells.width, width - len(_INDENT)), 1)
    return [cells.name for cells in every if cells not in columns]


def _line(widths: Iterable[int]) -> int:
    widths = list(widths)
    return len(_INDENT) + sum(widths) + len(_GAP) * (len(widths) - 1)


def _header(cells: _Cells, width: int | None) -> list[str]:
    return [cells.header] if width is None else wrapped(cells.header, cells.width, _HEADER_PIECES)


def _pieces(cells: _Cells, text: str, width: int | None) -> list[str]:
    return [text] if width is None else wrapped(text, cells.width)


def _row(columns: list[_Cells], pieces: list[list[str]]) -> list[str]:
    """The lines of one row."""
    lines = []
    for index in range(max(map(len, pieces), default=0)):
        texts = [
            _aligned(piece[index] if index < len(piece) else "", cells)
            for cells, piece in zip(columns, pieces, strict=True)
        ]
        lines.append((_INDENT + _GAP.join(texts)).rstrip())
    return lines


def _aligned(text: str, cells: _Cells) -> str:
    from rich.cells import cell_len

    blanks = " " * (cells.width - cell_len(text))
    return blanks + text if cells.right else text + blanks


def _below(text: str, width: int | None) -> list[str]:
    """A frame, or another element of a list, below its row; what is too long goes on further in."""
    if width is None:
        return [_FRAME_INDENT + text]
    indent = _FRAME_INDENT if width > 2 * len(_FRAME_INDENT) else ""
    first, *rest = wrapped(text, width - len(indent) - 2 if indent else max(width, 1))
    return [indent + first, *(f"{indent}  {piece}" if indent else piece for piece in rest)]


def wrapped(text: str, width: int, pieces: re.Pattern[str] = _PIECES, *, hang: int = 0) -> list[str]:
    """The text in lines of at most so many columns of a terminal, broken between words where it can be.

    :param hang: By how many columns all lines but the first are to be indented: they are as much shorter.
    """
    from rich.cells import cell_len, chop_cells

    if cell_len(text) <= width:
        return [text]
    lines: list[str] = []
    line = ""
    for piece in pieces.findall(text):
        if cell_len((line + piece).rstrip()) <= width:
            line += piece
            continue
        if line.strip():
            lines.append(line.rstrip())
        # A word that is longer than the further lines are is broken into pieces of their length.
        width, hang = max(width - hang, 1), 0
        *broken, line = chop_cells(piece, width) if cell_len(piece.rstrip()) > width else [piece]
        lines += broken
    return [*lines, line.rstrip()] if line.strip() else lines or [""]


def painted(line: Line, color: bool) -> bytes:
    """The line with its newline, in UTF-8.

    Styles are rendered piece by piece and no markup is ever parsed, so that nothing in the data is obeyed.
    """
    return ("".join(_styled(text, style) if color else text for text, style in line) + "\n").encode()


def _styled(text: str, style: str) -> str:
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD) if style else text
