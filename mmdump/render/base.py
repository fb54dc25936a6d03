"""What a renderer is: one object per output, that takes streamed rows and then the result."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import BinaryIO

import polars as pl

from mmdump import __version__
from mmdump.errors import UsageError
from mmdump.render.query import Query, QueryStream
from mmdump.result import Result, Schema, Table

__all__ = [
    "AT_ONCE",
    "FORMATS",
    "FormatSpec",
    "OneTable",
    "RenderOptions",
    "Renderer",
    "format_of",
    "register",
]


#: Rows turned into bytes at once.
AT_ONCE = 1 << 13


@dataclass(frozen=True)
class RenderOptions:
    """How a result is shown.

    :param query: The rows and columns of the one table that is asked about.
    :param table: That table's name; None means the result's primary one.
    :param width: Columns of the terminal; None when there is none, and lines are as long as they are.
    :param color: Whether text may be coloured.
    :param version: The version of mmdump that the output names.
    :param weight: The column that formats of call chains count by; None leaves it to them (bytes, as a rule).
    """

    query: Query = field(default_factory=Query)
    table: str | None = None
    width: int | None = None
    color: bool = False
    version: str = __version__
    weight: str | None = None


class Renderer(ABC):
    """Writes one result to one file. It is a :class:`~mmdump.result.RowSink` for the streamed table.

    Used in this order: :meth:`begin` if rows of the primary table are streamed, :meth:`rows` any number of
    times, :meth:`finish` exactly once. Output does not depend on how rows were cut into frames. The file
    stays open.
    """

    def __init__(self, out: BinaryIO, options: RenderOptions) -> None:
        self.out = out
        self.options = options
        #: The schema of the streamed table, once there is one.
        self.streamed: Schema | None = None

    @property
    def satisfied(self) -> bool:
        """Whether nothing that is yet to be found could change the output; a scan may then stop."""
        return False

    def needs(self, schema: Schema) -> frozenset[str]:
        """The columns of the streamed table that the output depends on.

        :raises UsageError: The query does not fit that table.
        """
        if self.options.table not in (None, schema.name):
            return frozenset()
        return self.options.query.needs(schema)

    def begin(self, schema: Schema) -> None:
        """Say which table's rows will follow. If another table was asked for they are dropped.

        :raises UsageError: The query does not fit that table.
        """
        self.streamed = schema
        if self.options.table in (None, schema.name):
            self.open(schema, self.options.query)

    @abstractmethod
    def open(self, schema: Schema, query: Query) -> None:
        """Get ready for streamed rows of the table asked about.

        :raises UsageError: The query does not fit that table.
        """

    @abstractmethod
    def rows(self, frame: pl.DataFrame) -> None:
        """Take some more rows of the streamed table."""

    @abstractmethod
    def finish(self, result: Result) -> None:
        """Write everything else. If rows were streamed, the result need not hold their table.

        :raises UsageError: The result has no such table as was asked for, or the query does not fit it.
        """

    def table(self, result: Result) -> Table:
        """The one table that is asked about, of those the result holds.

        :raises UsageError: There is no such table.
        """
        names = list(result.tables)
        if self.streamed is not None and self.streamed.name not in names:
            names.insert(0, self.streamed.name)
        hint = f"Tables: {', '.join(names)}." if names else "It has no tables."
        name = self.options.table or result.primary
        if name is None:
            raise UsageError(f"{result.analysis} has no main table.", f"Choose one with --table. {hint}")
        if name not in result.tables:
            raise UsageError(f"{result.analysis} has no table {name!r}.", hint)
        return result.tables[name]


class OneTable(Renderer):
    """A format that holds the rows of one table and nothing else."""

    _stream: QueryStream | None = None

    @abstractmethod
    def head(self, schema: Schema) -> None:
        """Write what stands before the rows; called once."""

    @abstractmethod
    def body(self, schema: Schema, frame: pl.DataFrame) -> None:
        """Write some rows of that schema."""

    @property
    def satisfied(self) -> bool:
        """Whether the limit is reached: nothing but rows is written."""
        return self._stream is not None and self._stream.satisfied

    def open(self, schema: Schema, query: Query) -> None:
        """Write the head."""
        self._stream = query.stream(schema)
        self.head(self._stream.schema)

    def rows(self, frame: pl.DataFrame) -> None:
        """Write the rows that meet the query."""
        if self._stream is not None:
            self._body(self._stream, self._stream.push(frame))

    def finish(self, result: Result) -> None:
        """Write the rows that waited, or the whole table when nothing was streamed."""
        stream = self._stream
        if stream is None:
            table = self.table(result)
            stream = self.options.query.stream(table.schema)
            first = stream.push(table.frame)
            self.head(stream.schema)
            self._body(stream, first)
        self._body(stream, stream.finish())

    def _body(self, stream: QueryStream, frame: pl.DataFrame | None) -> None:
        if frame is not None:
            # Sorted rows come all at once; as text they would be several times as large.
            for part in frame.iter_slices(AT_ONCE):
                self.body(stream.schema, part)


@dataclass(frozen=True)
class FormatSpec:
    """A format by which output can be written.

    :param name: As ``--format`` takes it.
    :param open: Makes the renderer.
    :param one_table: Whether it holds only one table, so that ``--table`` chooses.
    :param suffixes: Of the file names that ask for it, such as ``.csv``.
    :param stacks: Whether it shows call chains and what they weigh, so that ``--weight`` chooses.
    :param binary: Whether a terminal would make nothing of it.
    """

    name: str
    open: Callable[[BinaryIO, RenderOptions], Renderer]
    one_table: bool
    suffixes: tuple[str, ...] = ()
    stacks: bool = False
    binary: bool = False


#: Every format of mmdump's own by name.
FORMATS: dict[str, FormatSpec] = {}


def register(spec: FormatSpec) -> None:
    """Add a format.

    :raises ValueError: One of that name exists.
    """
    if spec.name in FORMATS:
        raise ValueError(f"there are two formats named {spec.name!r}")
    FORMATS[spec.name] = spec


def format_of(path: str, formats: Mapping[str, FormatSpec] = FORMATS) -> str | None:
    """The format that a file's name asks for, if any: that with the longest suffix it ends in.

    What follows a dot and is no word, as in ``vmcore-6.12``, is no suffix.

    :raises UsageError: The name has a suffix, and no format has that.
    """
    name = PurePath(path).name.lower()
    found = [
        (len(suffix), spec.name)
        for spec in formats.values()
        for suffix in spec.suffixes
        if name.endswith(suffix) and len(name) > len(suffix)
    ]
    if found:
        return max(found)[1]
    suffix = PurePath(name).suffix
    if not re.fullmatch(r"\.[a-z][a-z0-9]*", suffix):
        return None
    known = ", ".join(suffix for spec in formats.values() for suffix in spec.suffixes)
    raise UsageError(
        f"{path}: no format has the suffix {suffix}",
        f"Suffixes: {known}; a file of any name is written in the format that -f names. "
        "A document of all there is (.html, .md) is what mmdump report makes.",
    )
