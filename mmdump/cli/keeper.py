"""What a command found, kept to work with while it is also written: for drgn's shell and its scripts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from mmdump.result import Result, Schema, Table

if TYPE_CHECKING:
    from mmdump.render import QueryStream, Renderer

__all__ = ["ROWS_KEPT", "Keeper"]

#: Rows of a table as long as memory is large that are kept at most.
ROWS_KEPT = 1 << 20


class Keeper:
    """Passes streamed rows on to a renderer, and keeps those that its query chooses, to work with."""

    def __init__(self, renderer: Renderer) -> None:
        query = renderer.options.query
        self._renderer = renderer
        self._query = query
        # A bounded sort holds no more rows than these.
        self._bounded = query if query.limit else replace(query, limit=ROWS_KEPT)
        self._stream: QueryStream | None = None
        self._begun = False
        self._frames: list[pl.DataFrame] = []

    def needs(self, schema: Schema) -> frozenset[str]:
        """What the renderer needs, and what the query chooses."""
        needs = self._renderer.needs(schema)
        return needs | self._query.needs(schema) if self._wanted(schema) else needs

    def _wanted(self, schema: Schema) -> bool:
        return self._renderer.options.table in (None, schema.name)

    @property
    def satisfied(self) -> bool:
        """Whether both are."""
        return self._renderer.satisfied and (self._stream is None or self._stream.satisfied)

    def begin(self, schema: Schema) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._begun = True
        self._renderer.begin(schema)
        if self._wanted(schema):
            self._stream = self._bounded.stream(schema)

    def rows(self, frame: pl.DataFrame) -> None:
        """See :class:`mmdump.result.RowSink`."""
        self._renderer.rows(frame)
        if self._stream is not None:
            self._keep(self._stream.push(frame))

    def _keep(self, frame: pl.DataFrame | None) -> None:
        if frame is not None:
            self._frames.append(frame)

    def kept(self, result: Result) -> Result:
        """The result with the rows and columns that the query chooses of the one table it is about."""
        if self._stream is not None:
            return self._streamed(self._stream, result)
        name = self._renderer.options.table or result.primary
        if self._begun or name is None or not (self._query.shapes or self._query.limit):
            return result
        return result.with_table(self._query.table(result.tables[name]))

    def _streamed(self, stream: QueryStream, result: Result) -> Result:
        self._keep(stream.finish())
        schema = stream.schema
        if self._frames:
            frame = pl.concat(self._frames, how="vertical_relaxed")
        else:
            frame = pl.DataFrame(schema=dict.fromkeys(schema.names, pl.Null))
        if stream.matched > frame.height and not self._query.limit:
            lacking = (
                f"table {schema.name} has {stream.matched:,} rows, of which {frame.height:,} are kept here: "
                "write them to a file (-o), or ask for fewer (--where)"
            )
            result = replace(result, incomplete=[*result.incomplete, lacking])
        return result.with_table(Table(schema, frame))
