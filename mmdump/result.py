"""What an analysis found: typed tables, findings and coverage. Data only; nothing here prints.

A result is the whole interface between the analyses and the renderers: values stay numbers (a PFN is an
integer, a size is bytes, a time is nanoseconds) and each column says what its numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import polars as pl

from mmdump.amounts import counted

__all__ = [
    "Bars",
    "Column",
    "Coverage",
    "Finding",
    "Kind",
    "Map",
    "Result",
    "RowSink",
    "Schema",
    "Severity",
    "Table",
]


class Kind(Enum):
    """What the values of a column are. Only a renderer turns them into hex, MiB or seconds."""

    TEXT = "text"
    #: A number of things.
    COUNT = "count"
    #: A number that names something: a PID, an order, a node, a stack.
    ID = "id"
    #: A page frame number.
    PFN = "pfn"
    #: A size in bytes.
    BYTES = "bytes"
    #: Nanoseconds of the kernel's local clock, about the time since boot.
    NSEC = "nsec"
    #: A kernel virtual address.
    ADDRESS = "address"
    #: A word of bits, such as a gfp_mask.
    BITS = "bits"
    #: A truth value.
    BOOL = "bool"
    #: A call chain: a list of frames as the kernel prints them, innermost first.
    STACK = "stack"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    :param name: Its key, in the kernel's own terms where it has one.
    :param kind: What its values are.
    :param description: One sentence for documentation and ``--help``.
    :param in_text: Whether the default text view shows it; every other format has all columns.
    :param aliases: Other names by which ``--sort`` and its like know it.
    :param weight: Whether its sum says how much the rows' call chains weigh: formats of stacks
        (flame graphs, profiles) count by such columns.
    :param private: What sort of name it holds that is nobody else's business: ``comm``, ``cgroup``, ``path``,
        ``host`` or ``module``. A redacted report masks it, here and in every sentence.
    :param per_line: Whether it holds lists whose elements stand one on a line, below their row, where a
        terminal has no room for them beside it.
    :param values: All that its text (or a text in its lists) can be, where that is a closed set whatever the
        kernel: ``--where`` refuses to look for another.
    """

    name: str
    kind: Kind = Kind.TEXT
    description: str = ""
    in_text: bool = True
    aliases: tuple[str, ...] = ()
    weight: bool = False
    private: str = ""
    per_line: bool = False
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bars:
    """That a table makes a histogram: a bar for each row.

    :param label: The column that names the bars, in order.
    :param value: The column of their lengths.
    :param by: Columns whose values have a histogram each.
    """

    label: str
    value: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """That a table is a map of physical memory: a cell for each row, in order of PFN.

    :param start: The column of the first PFN of each cell.
    :param pages: The column of the pages it spans.
    :param parts: Columns of how many of these are what; the rest of a cell is unknown.
    :param labels: Columns that say more about a cell: its zone, its migratetype.
    """

    start: str
    pages: str
    parts: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """Name and columns of a table, known before there are any rows.

    :param chart: The picture that it makes in a report; formats of text leave it out.
    """

    name: str
    columns: tuple[Column, ...]
    title: str = ""
    chart: Bars | Map | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name.

        :raises KeyError: There is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True)
class Table:
    """Rows under a schema. The frame has exactly the schema's columns, in order."""

    schema: Schema
    frame: pl.DataFrame

    def __post_init__(self) -> None:
        if tuple(self.frame.columns) != self.schema.names:
            raise ValueError(
                f"table {self.schema.name}: columns {self.frame.columns} are not {list(self.schema.names)}"
            )

    def __repr__(self) -> str:
        """One line: what it is. Its frame shows the rows."""
        rows, columns = self.frame.shape
        return f"<Table {self.name}: {counted(rows, 'row')}, {counted(columns, 'column')}>"

    @classmethod
    def of_rows(cls, schema: Schema, rows: Sequence[Mapping[str, object]]) -> Table:
        """A table of few rows; a column that is missing in a row is absent there.

        Text is text, truth values are Booleans, and all else is a 64-bit integer.
        """
        types = {Kind.TEXT: pl.String(), Kind.BOOL: pl.Boolean()}
        columns = {column.name: types.get(column.kind, pl.Int64()) for column in schema.columns}
        return cls(schema, pl.DataFrame(rows, schema=columns))

    @property
    def name(self) -> str:
        """The key of this table among the result's tables."""
        return self.schema.name


class Severity(Enum):
    """How much a finding matters to someone with a bug to close."""

    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"

    @property
    def rank(self) -> int:
        """Its place among severities, the worst first."""
        return (Severity.PROBLEM, Severity.WARNING, Severity.NOTE).index(self)


@dataclass(frozen=True)
class Finding:
    """One thing worth saying about this machine, in one sentence, with its evidence.

    :param key: A stable identifier, such as ``cma-blocked``.
    :param message: One sentence.
    :param table: The table whose rows are the evidence.
    :param where: The condition that selects those rows, as ``--where`` takes it.
    :param about: The one thing it is about, such as a CMA area, where other analyses may find the same: a
        report tells findings of one key about one thing once.
    """

    key: str
    severity: Severity
    message: str
    table: str | None = None
    where: str | None = None
    about: str | None = None


@dataclass(frozen=True)
class Coverage:
    """How much of what there was to read could be read, in pages described. The parts add up.

    :param pages: Pages that an analysis looked at: its ``struct page`` (or its page_ext entry).
    :param read: Those whose metadata was in the dump.
    :param unreadable: Missing from the dump: filtered, truncated, or pointed to by garbage.
    :param zero_filled: Read as zeros because the dump holds nothing there, so zero is not known to be true.
    :param erased: Overwritten on purpose by makedumpfile's erase filter.
    :param page_ext: The same account for the page_ext entries, where the analysis needed them.
    """

    pages: int = 0
    read: int = 0
    unreadable: int = 0
    zero_filled: int = 0
    erased: int = 0
    page_ext: Coverage | None = None

    def __post_init__(self) -> None:
        parts = self.read + self.unreadable + self.zero_filled + self.erased
        if parts != self.pages:
            raise ValueError(f"coverage does not add up: {parts} of {self.pages} pages")

    @property
    def complete(self) -> bool:
        """Whether nothing that was needed is known to be missing."""
        ext = self.page_ext
        return self.read == self.pages and (ext is None or ext.read == ext.pages)

    def __add__(self, other: Coverage) -> Coverage:
        ext = self.page_ext
        if other.page_ext is not None:
            ext = other.page_ext if ext is None else ext + other.page_ext
        return Coverage(
            self.pages + other.pages,
            self.read + other.read,
            self.unreadable + other.unreadable,
            self.zero_filled + other.zero_filled,
            self.erased + other.erased,
            ext,
        )

    def as_dict(self) -> dict[str, object]:
        """The account as it stands in JSON."""
        parts: dict[str, object] = {
            "pages": self.pages,
            "read": self.read,
            "unreadable": self.unreadable,
            "zero_filled": self.zero_filled,
            "erased": self.erased,
        }
        if self.page_ext is not None:
            parts["page_ext"] = self.page_ext.as_dict()
        return parts


@dataclass(frozen=True)
class Result:
    """The answer of one analysis.

    :param analysis: The analysis' name.
    :param summary: The answer in one or two lines of text.
    :param tables: Tables by name, in the order in which they should be read.
    :param primary: The table that ``--where``, ``--sort`` and formats for one table apply to.
    :param text_tables: The tables that the default text view shows, in order.
    :param findings: What is worth saying, most important first.
    :param notes: What the reader must know to read the answer right, such as evidence this kernel lacks.
    :param incomplete: One sentence for each thing that was needed and could not be had.
    :param target: What was analysed, as plain data.
    """

    analysis: str
    summary: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    primary: str | None = None
    text_tables: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    incomplete: Sequence[str] = ()
    coverage: Coverage | None = None
    target: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: what there is to look at, not all that it holds."""
        tables = ", ".join(
            f"{name} ({counted(table.frame.height, 'row')})" for name, table in self.tables.items()
        )
        parts = [
            f"tables {tables}" if tables else "no tables",
            counted(len(self.findings), "finding"),
            counted(len(self.notes), "note"),
            f"incomplete: {len(self.incomplete)}" if self.incomplete else "complete",
        ]
        return f"<Result of {self.analysis}: {'; '.join(parts)}>"

    def with_table(self, table: Table) -> Result:
        """This result with one more (or another) table, put first when it is the primary one."""
        rest = {name: each for name, each in self.tables.items() if name != table.name}
        tables = {table.name: table} | rest if table.name == self.primary else rest | {table.name: table}
        return replace(self, tables=tables)


class RowSink(Protocol):
    """Takes the rows of a table that may be as long as memory is large, as they are found."""

    @property
    def satisfied(self) -> bool:
        """Whether no further row, and nothing else of the result, is wanted."""

    def needs(self, schema: Schema) -> frozenset[str]:
        """The columns of that table that matter; others may be null. Called once, before all else."""

    def begin(self, schema: Schema) -> None:
        """Say which table's rows will follow; called once, before any rows."""

    def rows(self, frame: pl.DataFrame) -> None:
        """Take some more rows, in PFN order. The frame has the schema's columns, in order."""
