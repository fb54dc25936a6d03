"""Which rows and columns of one table are shown: ``--where``, ``--sort``, ``--columns``, ``--limit``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from mmdump.errors import UsageError
from mmdump.render.tokens import NoColumnError, find_column, tokenize
from mmdump.render.where import Where, compile_where
from mmdump.result import Schema, Table

__all__ = ["Query", "QueryStream"]

#: Rows gathered before a bounded sort looks at them again: a sort per small frame would cost more.
_BATCH = 1 << 16


@dataclass(frozen=True)
class Query:
    """A row filter and shape for one table, the same for a whole frame and for one that comes in pieces.

    :param where: A condition on the columns, as ``mmdump/render/where.py`` describes.
    :param sort: Columns to sort by, the first being the most significant; ``-name`` is descending. Values
        that are absent come last. Rows that are equal stay in their order.
    :param columns: The columns to show, in this order; empty means all.
    :param limit: Show at most so many rows; 0 means all, None leaves it to the format (text shows a few,
        every other format all).
    :raises UsageError: The limit is negative.
    """

    where: str | None = None
    sort: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 0:
            raise UsageError(f"--limit {self.limit}: a number of rows cannot be negative.")

    @classmethod
    def parse(
        cls,
        where: str | None = None,
        sort: str | Iterable[str] | None = None,
        columns: str | Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Query:
        """A query from a command line's words: names separated by commas, or several such words."""
        return cls(where, _names(sort), _names(columns), limit)

    @property
    def shapes(self) -> bool:
        """Whether this asks for something of one table, rather than for fewer rows of any."""
        return self.where is not None or bool(self.sort) or bool(self.columns)

    def schema(self, schema: Schema) -> Schema:
        """The table's schema with only the columns asked for.

        :raises UsageError: A column does not exist.
        """
        if not self.columns:
            return schema
        names = dict.fromkeys(_find(schema, name, "--columns") for name in self.columns)
        return Schema(schema.name, tuple(schema.column(name) for name in names), schema.title)

    def needs(self, schema: Schema) -> frozenset[str]:
        """The columns that the answer depends on: those shown, sorted by, or in the condition.

        :raises UsageError: As :meth:`stream`.
        """
        names = set(self.schema(schema).names)
        names |= {_find(schema, name.removeprefix("-"), "--sort") for name in self.sort}
        if self.where is not None:
            names |= {str(token.value) for token in tokenize(self.where, schema) if token.kind == "column"}
        return frozenset(names)

    def stream(self, schema: Schema) -> QueryStream:
        """Begin to filter rows of that table.

        :raises UsageError: A column does not exist, or the condition cannot be understood.
        """
        return QueryStream(self, schema)

    def table(self, table: Table) -> Table:
        """The rows and columns asked for of a whole table.

        :raises UsageError: As :meth:`stream`, or the condition does not fit the columns' types.
        """
        return self.first(table)[0]

    def first(self, table: Table) -> tuple[Table, int]:
        """The same, and how many rows met the condition, shown or not."""
        stream = self.stream(table.schema)
        frames = [frame for frame in (stream.push(table.frame), stream.finish()) if frame is not None]
        frame = pl.concat(frames) if frames else table.frame.select(stream.schema.names).clear()
        return Table(stream.schema, frame), stream.matched


class QueryStream:
    """One pass of a query over the rows of a table, which come in frames.

    Without a sort rows pass at once. With a sort and a limit only about the limit's rows are kept. With a
    sort alone there is no way around holding all matching rows until the end.
    """

    def __init__(self, query: Query, schema: Schema) -> None:
        #: The schema of the frames that come out.
        self.schema = query.schema(schema)
        #: How many rows met the condition so far, shown or not.
        self.matched = 0
        self._input = schema
        self._text = query.where
        self._limit = query.limit or None
        self._by = [_find(schema, name.removeprefix("-"), "--sort") for name in query.sort]
        self._descending = [name.startswith("-") for name in query.sort]
        self._passed = 0
        self._kept: list[pl.DataFrame] = []
        self._kept_rows = 0
        self._where: Where | None = None
        self._dtypes: pl.Schema | None = None
        if query.where is not None:
            compile_where(query.where, schema)

    @property
    def satisfied(self) -> bool:
        """Whether no row that may still come would be shown."""
        return self._limit is not None and not self._by and self._passed >= self._limit

    def push(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """Take some more rows; returns those that can be shown already.

        :raises UsageError: The condition does not fit the columns' types.
        """
        if frame.schema != self._dtypes:
            self._check(frame.schema)
        if self._where is not None:
            frame = self._where.filter(frame)
        self.matched += frame.height
        if self._by:
            self._keep(frame)
            return None
        if self._limit is not None:
            frame = frame.head(self._limit - self._passed)
        self._passed += frame.height
        return frame.select(self.schema.names) if frame.height else None

    def finish(self) -> pl.DataFrame | None:
        """The rows that had to wait for the last one."""
        if not self._kept:
            return None
        frame = self._sorted()
        self._kept = []
        return frame.select(self.schema.names) if frame.height else None

    def _check(self, dtypes: pl.Schema) -> None:
        if self._text is not None:
            self._where = compile_where(self._text, self._input, dtypes)
        for name in self._by:
            if dtypes[name].is_nested():
                raise UsageError(f"--sort {name}: a column of lists has no order.")
        self._dtypes = dtypes

    def _keep(self, frame: pl.DataFrame) -> None:
        self._kept.append(frame)
        self._kept_rows += frame.height
        if self._limit is not None and self._kept_rows > self._limit + _BATCH:
            self._kept = [self._sorted()]
            self._kept_rows = self._kept[0].height

    def _sorted(self) -> pl.DataFrame:
        frame = pl.concat(self._kept, how="vertical_relaxed")
        ordered = frame.sort(self._by, descending=self._descending, nulls_last=True, maintain_order=True)
        return ordered if self._limit is None else ordered.head(self._limit)


def _names(words: str | Iterable[str] | None) -> tuple[str, ...]:
    given = [words] if isinstance(words, str) else list(words or ())
    return tuple(name.strip() for word in given for name in word.split(",") if name.strip())


def _find(schema: Schema, name: str, option: str) -> str:
    column = find_column(schema, name)
    if column is None:
        raise NoColumnError(f"{option} {name}: table {schema.name} has no such column.", name, schema)
    return column
