"""What formats of call chains share: the table whose rows have chains and weights, as samples."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import polars as pl

from mmdump.errors import UsageError
from mmdump.render.base import Renderer
from mmdump.render.escape import escape
from mmdump.render.query import Query
from mmdump.result import Column, Kind, Result, Schema, Table

__all__ = ["Chains", "Frame", "Sample", "StackRenderer", "chains_of", "named_chains", "weighed_tables"]

#: The column by which rows of one table name call chains of another.
STACK_ID = "stack_id"

#: A frame as the kernel prints it (``%pS``), ``name+0xoffset/0xsize [module]``, then its source if it is
#: known. An inlined function has no offset.
_FRAME = re.compile(
    r"(?P<name>.+?)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[(?P<module>[^\s\[\]]+)\])?"
    r"(?: \((?P<file>[^()]+):(?P<line>\d+)\))?"
)


@dataclass(frozen=True)
class Frame:
    """One frame of a call chain.

    :param name: The function: what flame graphs merge frames by. Safe to show, but with blanks as they are.
    :param text: The frame as the table has it, escaped.
    :param module: The kernel module it lies in; empty for the kernel itself.
    :param file: Source file; empty where unknown.
    :param line: Line in it; 0 where unknown.
    :param address: Return address; 0 where unknown.
    """

    name: str
    text: str
    module: str = ""
    file: str = ""
    line: int = 0
    address: int = 0


@cache
def _frame(text: str, address: int) -> Frame:
    shown = escape(text)
    found = _FRAME.fullmatch(shown)
    if found is None:
        return Frame(shown or "[empty]", shown, address=address)
    return Frame(
        found["name"],
        shown,
        found["module"] or "",
        found["file"] or "",
        # A line that no source has is not one.
        int(found["line"]) if found["line"] and len(found["line"]) < 8 else 0,
        address,
    )


@dataclass(frozen=True)
class Sample:
    """A row: its chain and what it weighs.

    :param frames: Innermost first, never empty: what is not known is a frame that says so.
    :param weights: One for each of ``Chains.weights``.
    :param labels: The row's other columns, where they are not absent.
    """

    frames: tuple[Frame, ...]
    weights: tuple[int, ...]
    labels: Mapping[str, str | int]


@dataclass(frozen=True)
class Chains:
    """A table of call chains.

    :param weights: The columns that can be counted by.
    :param chosen: Index of the one to count by.
    :param labels: The columns of the samples' labels.
    """

    schema: Schema
    weights: tuple[Column, ...]
    chosen: int
    labels: tuple[Column, ...]
    samples: Sequence[Sample]

    def folded(self, index: int) -> dict[tuple[Frame, ...], int]:
        """Chains and their sums by one weight; chains of the same functions are one.

        :return: Frames are innermost first and stand for their function alone.
        """
        sums: dict[tuple[Frame, ...], int] = {}
        for sample in self.samples:
            chain = tuple(_function(frame) for frame in sample.frames)
            sums[chain] = sums.get(chain, 0) + sample.weights[index]
        return sums


@cache
def _function(frame: Frame) -> Frame:
    return Frame(frame.name, frame.name, frame.module, frame.file)


class StackRenderer(Renderer):
    """A format of call chains: takes the table that has chains and weights, and nothing else.

    That is the table asked for, else the primary one, else the first. Its chains are in a column of its own,
    or in that of another table that it names by ``stack_id``.
    """

    def open(self, schema: Schema, query: Query) -> None:
        """Nothing: streamed rows are single things, not sums by call chain."""

    def rows(self, frame: pl.DataFrame) -> None:
        """Nothing."""

    def finish(self, result: Result) -> None:
        """Write the chains.

        :raises UsageError: The result has no chains with weights.
        """
        self.write(result, self._chains(result))

    @abstractmethod
    def write(self, result: Result, chains: Chains) -> None:
        """Write the chains."""

    def _chains(self, result: Result) -> Chains:
        table = self._weighed(result)
        # Columns of other formats' views do not matter here: a chain and its weights are always wanted.
        table = replace(self.options.query, columns=()).table(table)
        return chains_of(result, table, self.options.weight)

    def _weighed(self, result: Result) -> Table:
        """The table to write.

        :raises UsageError: There is none, or not of that name.
        """
        found = weighed_tables(result)
        asked = self.options.table
        if not found:
            raise UsageError(
                f"{result.analysis} has no call chains to write.",
                "Folded stacks and profiles are for tables that sum by call chain.",
            )
        if asked is not None and asked not in found:
            raise UsageError(
                f"{result.analysis} has no table {asked!r} with call chains to write.",
                f"Tables: {', '.join(found)}.",
            )
        if asked is None:
            asked = result.primary if result.primary in found else found[0]
        return result.tables[asked]


def weighed_tables(result: Result) -> list[str]:
    """The names of the tables that have call chains and what they weigh."""
    return [
        name
        for name, table in result.tables.items()
        if any(column.weight for column in table.schema.columns) and _has_chains(result, table)
    ]


def chains_of(result: Result, table: Table, weight: str | None = None) -> Chains:
    """The call chains of a table of :func:`weighed_tables`.

    :param weight: The column to count by; None for the first in bytes, or the first.
    :raises UsageError: There is no such weight.
    """
    weights = tuple(column for column in table.schema.columns if column.weight)
    labels = tuple(
        column
        for column in table.schema.columns
        if column.kind in (Kind.TEXT, Kind.ID, Kind.NSEC, Kind.BOOL) and not column.weight
    )
    return Chains(
        table.schema,
        weights,
        _chosen(table.schema, weights, weight),
        labels,
        list(_samples(result, table, weights, labels)),
    )


def _chosen(schema: Schema, weights: Sequence[Column], asked: str | None) -> int:
    """The weight to count by: that asked for, else the first in bytes, else the first."""
    names = [column.name for column in weights]
    if asked is None:
        return next((index for index, each in enumerate(weights) if each.kind is Kind.BYTES), 0)
    if asked.lower() not in names:
        raise UsageError(
            f"--weight {asked}: table {schema.name} does not say that.", f"Weights: {', '.join(names)}."
        )
    return names.index(asked.lower())


def _column(schema: Schema, kind: Kind) -> str | None:
    return next((column.name for column in schema.columns if column.kind is kind), None)


def _has_chains(result: Result, table: Table) -> bool:
    if _column(table.schema, Kind.STACK) is not None:
        return True
    return STACK_ID in table.schema.names and _named_chains(result) is not None


def _named_chains(result: Result) -> Table | None:
    """The table of chains by ``stack_id``: the one that has nothing to count by."""
    for table in result.tables.values():
        plain = not any(column.weight for column in table.schema.columns)
        if plain and STACK_ID in table.schema.names and _column(table.schema, Kind.STACK) is not None:
            return table
    return None


@dataclass(frozen=True)
class _Known:
    """What the table of chains says of one: its frames, their addresses, and why it has none."""

    frames: Sequence[str] = ()
    addresses: Sequence[int] = ()
    status: str = "no call chain"


def named_chains(result: Result) -> dict[int, Sequence[str]]:
    """The frames of call chains by ``stack_id``, where the result has a table of these."""
    return {number: known.frames for number, known in _by_id(result).items()}


def _by_id(result: Result) -> dict[int, _Known]:
    table = _named_chains(result)
    if table is None:
        return {}
    names = table.schema.names
    stack, addresses = _column(table.schema, Kind.STACK), _column(table.schema, Kind.ADDRESS)
    known = {}
    for row in table.frame.iter_rows(named=True):
        frames = row[stack or ""] or ()
        where = row[addresses] or () if addresses is not None else ()
        status = row["status"] if "status" in names else None
        known[row[STACK_ID]] = _Known(frames, where, status or "no call chain")
    return known


def _samples(
    result: Result, table: Table, weights: Sequence[Column], labels: Sequence[Column]
) -> Iterator[Sample]:
    known = _by_id(result)
    own = _column(table.schema, Kind.STACK)
    for row in table.frame.iter_rows(named=True):
        named = known.get(row.get(STACK_ID, 0), _Known())
        frames = [str(text) for text in (row[own] if own is not None else None) or named.frames]
        # Those of the named chain are only these frames' if there is one for each.
        addresses = named.addresses if len(named.addresses) == len(frames) else [0] * len(frames)
        chain = tuple(_frame(text, address or 0) for text, address in zip(frames, addresses, strict=True))
        yield Sample(
            chain or (_frame(f"[{named.status}]", 0),),
            tuple(int(row[column.name] or 0) for column in weights),
            {column.name: value for column in labels if (value := _label(row[column.name])) is not None},
        )


def _label(value: object) -> str | int | None:
    if value is None:
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (list, tuple)):
        return escape("|".join(str(each) for each in value))
    return escape(str(value))
