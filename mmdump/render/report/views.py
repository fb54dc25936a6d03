"""Tables as HTML needs them: cells with their text and the value they are sorted by, call chains folded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mmdump.document import Section
from mmdump.render.stacks import STACK_ID, named_chains
from mmdump.render.values import value_text
from mmdump.result import Bars, Column, Kind, Table

__all__ = ["BarView", "CellView", "ChainView", "Chains", "ColumnView", "TableView", "bars_of", "table_view"]

#: Call chains that are looked at to find what all have in common, and functions a summary names.
_LOOKED_AT, _NAMED = 500, 3
#: Of the chains, so many have a frame that therefore tells nothing.
_COMMON = 0.3
_OFFSET = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+")
#: Histograms and bars of a table; what is beyond is in the table.
_MOST_GROUPS, _MOST_BARS = 16, 64


@dataclass(frozen=True)
class ColumnView:
    """The header of a column.

    :param css: Classes of its cells: its kind, whether it is a number, and whether it is shown only when
        asked for.
    """

    name: str
    description: str
    css: str


@dataclass(frozen=True)
class ChainView:
    """A call chain: the functions that tell it apart, and all its frames."""

    summary: str
    frames: Sequence[str]


@dataclass(frozen=True)
class CellView:
    """A cell: its text, what it is sorted by (None for its text), and a call chain to unfold."""

    text: str
    value: int | float | None = None
    chain: ChainView | None = None


@dataclass(frozen=True)
class TableView:
    """A table.

    :param id: Within the document.
    :param total: Rows there are, shown or not; None where that is not known.
    :param empty: Names of columns that are absent in every row, and not shown.
    """

    id: str
    title: str
    columns: Sequence[ColumnView]
    rows: Sequence[Sequence[CellView]]
    total: int | None
    empty: Sequence[str] = ()
    bars: Sequence[BarView] = ()
    open: bool = True

    @property
    def hidden(self) -> int | None:
        """How many rows are not shown."""
        return None if self.total is None else self.total - len(self.rows)


@dataclass(frozen=True)
class BarView:
    """A histogram."""

    title: str
    label: str
    value: str
    bars: Sequence[tuple[str, str, float]]


@dataclass
class Chains:
    """The call chains of a section, and which functions all of them share."""

    by_id: Mapping[int, Sequence[str]] = field(default_factory=dict)
    common: frozenset[str] = frozenset()

    @classmethod
    def of(cls, sections: Sequence[Section]) -> dict[str, Chains]:
        """Those of each section by its name; what chains share is told from all of them."""
        by_section: dict[str, Mapping[int, Sequence[str]]] = {}
        distinct: dict[tuple[str, ...], None] = {}
        for section in sections:
            if section.result is None:
                continue
            by_section[section.name] = named_chains(section.result)
            chains: list[Sequence[Any]] = list(by_section[section.name].values())
            for table in section.result.tables.values():
                for column in table.schema.columns:
                    if column.kind is Kind.STACK:
                        chains += table.frame[column.name].drop_nulls().head(_LOOKED_AT).to_list()
            for chain in chains[:_LOOKED_AT]:
                distinct[tuple(str(frame) for frame in chain)] = None
        counts = Counter(name for chain in distinct for name in {_function(frame) for frame in chain})
        common = frozenset(
            name for name, count in counts.items() if len(distinct) > 2 and count > len(distinct) * _COMMON
        )
        return {section.name: cls(by_section.get(section.name, {}), common) for section in sections}

    def view(self, frames: Sequence[Any]) -> ChainView | None:
        """A chain, folded: its summary begins where it leaves what all chains share."""
        texts = [str(frame) for frame in frames]
        if not texts:
            return None
        names = [_function(text) for text in texts]
        first = next((index for index, name in enumerate(names) if name not in self.common), 0)
        # With its module: whose function it is says more than its name.
        shown = [_OFFSET.sub("", text) for text in texts[first : first + _NAMED]]
        return ChainView(" ← ".join(shown) + (" …" if first + _NAMED < len(texts) else ""), texts)


def _function(frame: str) -> str:
    return _OFFSET.sub("", frame).split(" ", 1)[0]


def table_view(
    name: str, table: Table, rows: int, total: int | None, chains: Chains, *, shown: bool = True
) -> TableView:
    """The first rows of a table, without columns that are absent in all of them."""
    frame = table.frame.head(rows)
    if any(column.kind is Kind.STACK for column in table.schema.columns):
        # It shows its chains itself.
        chains = Chains({}, chains.common)
    columns = [
        column for column in table.schema.columns if frame[column.name].null_count() < max(frame.height, 1)
    ]
    # Call chains are wide: what else a row says stands before them.
    columns.sort(key=lambda column: column.kind is Kind.STACK or bool(_has_chains(column, chains)))
    empty = [column.name for column in table.schema.columns if column not in columns]
    values = [frame[column.name].to_list() for column in columns]
    cells = [
        [_cell(column, value, chains) for column, value in zip(columns, row, strict=True)]
        for row in zip(*values, strict=True)
    ]
    return TableView(
        name,
        table.schema.title or table.name.replace("_", " ").capitalize(),
        [
            ColumnView(
                column.name,
                column.description,
                _css(column, frame[column.name], chains),
            )
            for column in columns
        ],
        cells,
        total,
        empty,
        bars_of(table),
        shown,
    )


def _css(column: Column, series: pl.Series, chains: Chains) -> str:
    number = series.dtype.is_numeric() and column.kind is not Kind.BOOL and not _has_chains(column, chains)
    return column.kind.value + (" number" if number else "") + ("" if column.in_text else " extra")


def _has_chains(column: Column, chains: Chains) -> bool:
    """Whether the column names call chains, which its cells then show."""
    return column.name == STACK_ID and bool(chains.by_id)


def _cell(column: Column, value: Any, chains: Chains) -> CellView:
    if column.kind is Kind.STACK:
        chain = chains.view(value or ())
        return CellView("-" if chain is None else "", None, chain)
    text = value_text(value, column.kind)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return CellView(text)
    chain = chains.view(chains.by_id.get(int(value), ())) if column.name == STACK_ID else None
    return CellView(text, value, chain)


def bars_of(table: Table) -> list[BarView]:
    """The histograms of a table that makes some."""
    chart = table.schema.chart
    if not isinstance(chart, Bars) or not table.frame.height:
        return []
    label, value = table.schema.column(chart.label), table.schema.column(chart.value)
    groups: dict[tuple[str, ...], list[tuple[str, str, float]]] = {}
    most: dict[tuple[str, ...], int] = {}
    for row in table.frame.iter_rows(named=True):
        key = tuple(f"{name} {value_text(row[name], table.schema.column(name).kind)}" for name in chart.by)
        size = int(row[chart.value] or 0)
        most[key] = max(most.get(key, 0), size)
        groups.setdefault(key, []).append(
            (value_text(row[chart.label], label.kind), value_text(row[chart.value], value.kind), float(size))
        )
    return [
        BarView(
            ", ".join(key),
            chart.label,
            chart.value.replace("_", " "),
            [(name, text, 100 * size / max(most[key], 1)) for name, text, size in bars[:_MOST_BARS]],
        )
        for key, bars in list(groups.items())[:_MOST_GROUPS]
        if most[key]
    ]
