"""Parquet: one table with its types, for polars, pandas, DuckDB and the like; written in bounded memory."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import polars as pl

from mmdump.errors import UsageError
from mmdump.render.base import OneTable, RenderOptions
from mmdump.result import Result, Schema

__all__ = ["ParquetRenderer"]

#: Rows of a part: some MiB, and what a row group of a file should have.
_PART_ROWS = 1 << 16


class ParquetRenderer(OneTable):
    """Writes numbers as numbers, addresses among them, lists as lists, and what is absent as null.

    A Parquet file ends with its table of contents, which needs all the rows: parts go to temporary files, and
    are streamed together in the end, so that no more than a part is held.
    """

    def __init__(self, out: BinaryIO, options: RenderOptions) -> None:
        super().__init__(out, options)
        self._schema: Schema | None = None
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0
        self._parts: list[Path] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def head(self, schema: Schema) -> None:
        """Nothing yet.

        :raises UsageError: The output is a terminal.
        """
        if self.out.isatty():
            raise UsageError("Parquet is not for a terminal.", "Write it to a file: -o FILE.parquet")
        self._schema = schema

    def body(self, schema: Schema, frame: pl.DataFrame) -> None:  # noqa: ARG002
        """Keep rows until they make a part."""
        self._waiting.append(frame)
        self._rows += frame.height
        if self._rows >= _PART_ROWS:
            self._part()

    def finish(self, result: Result) -> None:
        """Write the file."""
        super().finish(result)
        assert self._schema is not None
        try:
            if not self._parts:
                # Small, or without rows: then nobody knows the types.
                empty = pl.DataFrame(schema=dict.fromkeys(self._schema.names, pl.String))
                frame = pl.concat(self._waiting, how="vertical_relaxed") if self._waiting else empty
                self.out.write(_parquet(frame))
                return
            self._part()
            frames = [pl.scan_parquet(part) for part in self._parts]
            assert self._folder is not None
            whole = Path(self._folder.name) / "whole.parquet"
            with _disk_errors(whole):
                pl.concat(frames, how="vertical_relaxed").sink_parquet(
                    whole, row_group_size=_PART_ROWS, maintain_order=True
                )
            with whole.open("rb") as file:
                shutil.copyfileobj(file, self.out, 1 << 20)
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def _part(self) -> None:
        if not self._waiting:
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mmdump-parquet-")
        path = Path(self._folder.name) / f"{len(self._parts):06}.parquet"
        part = _parquet(pl.concat(self._waiting, how="vertical_relaxed"))
        with _naming(path):
            path.write_bytes(part)
        self._parts.append(path)
        self._waiting, self._rows = [], 0


def _parquet(frame: pl.DataFrame) -> memoryview:
    """A part as a file: what polars says of a file that it cannot write does not tell why."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getbuffer()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What the system says of a temporary file names it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Where polars fails to write a file, and so does Python, why: polars hides it in an error of its own.

    :raises OSError: No more can be written.
    """
    try:
        yield
    except pl.exceptions.PolarsError:
        with _naming(path), path.open("ab", buffering=0) as file:
            file.write(bytes(1 << 20))
        raise
