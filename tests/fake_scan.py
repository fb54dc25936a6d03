"""A kernel whose pages follow from their PFN, and analyses of it, for tests of the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Parts
from mmdump.kernel.memmap import MemMap
from mmdump.result import Column, Result, Schema, Table
from tests.kernel.builders import EXT_LAYOUT, VMEMMAP, sections

__all__ = ["ROWS", "SUMS", "Count", "Every", "FakeKernel", "NoPages"]

ROWS = Schema("rows", (Column("pfn"), Column("value")))
SUMS = Schema("sums", (Column("key"), Column("pages"), Column("sum")))


class FakeMap(MemMap):
    """A page array whose chunks are given."""

    def __init__(self, cuts: list[int]) -> None:
        ranges = np.array([[cuts[0], cuts[-1]]] if len(cuts) > 1 else [], np.int64).reshape(-1, 2)
        super().__init__(VMEMMAP, 64, ranges, sections(32768, 0), 0)
        object.__setattr__(self, "_cuts", cuts)

    def chunks(self) -> Any:
        return iter(list(zip(self._cuts, self._cuts[1:], strict=False)))


@dataclass
class FakeKernel:
    """A kernel whose page of a PFN has flags that follow from the PFN."""

    cuts: list[int]
    status: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    ext_status: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    page_ext: Any = EXT_LAYOUT
    asked_ext: list[bool] = field(default_factory=list)
    read: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memmap = FakeMap(self.cuts)
        self.target = SimpleNamespace(dump=None)

    def pages(self, start: int, end: int, *, ext: bool = False, blocks: bool = True) -> SimpleNamespace:
        self.asked_ext.append(ext)
        self.read.append((start, end))
        status = np.zeros(end - start, np.uint8)
        own = self.status[start:end]
        status[: len(own)] = own
        ext_status = np.zeros(end - start, np.uint8)
        own = self.ext_status[start:end]
        ext_status[: len(own)] = own
        return SimpleNamespace(
            start=start,
            pfn=np.arange(start, end),
            status=status,
            ext=SimpleNamespace(status=ext_status) if ext else None,
        )


@dataclass(frozen=True)
class Every(Analysis):
    """Streams PFNs that 3 divides, and sums all by a key."""

    name = "every"
    summary = "every"
    stream = ROWS
    batches: ClassVar[list[int]] = []

    def start(self, kernel: Any) -> int:
        return 7

    def scan(self, pages: Any, state: int) -> Mapping[str, Columns]:
        chosen = pages.pfn[pages.pfn % 3 == 0]
        parts = {"sums": {"key": pages.pfn % state, "value": pages.pfn}}
        # A part that only some ranges have.
        if len(chosen):
            parts["rows"] = {"pfn": chosen, "value": chosen * state}
        return parts

    def batch(self, rows: Parts, state: int) -> Parts:
        sums = rows["sums"].select("key", pl.lit(1).alias("pages"), pl.col("value").alias("sum"))
        parts = {"sums": self.fold("sums", sums)}
        if "rows" in rows:
            parts["rows"] = rows["rows"]
        return parts

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        assert part == "sums"
        return frame.group_by("key").agg(pl.col("pages").sum(), pl.col("sum").sum())

    def finish(self, kernel: Any, state: int, parts: Parts) -> Result:
        sums = parts["sums"].sort("key").select(SUMS.names)
        return Result(self.name, tables={"sums": Table(SUMS, sums)}, primary="rows")


@dataclass(frozen=True)
class Count(Analysis):
    """Counts pages; streams nothing."""

    name = "count"
    summary = "count"
    page_ext = ("page_owner",)

    def scan(self, pages: Any, state: Any) -> Mapping[str, Columns]:
        return {"n": {"pages": np.array([len(pages.pfn)])}}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sum()

    def finish(self, kernel: Any, state: Any, parts: Parts) -> Result:
        return Result(self.name, summary=[str(parts["n"]["pages"].sum())])


@dataclass(frozen=True)
class NoPages(Analysis):
    """Looks at no pages."""

    name = "no-pages"
    summary = "no pages"
    scans = False

    def finish(self, kernel: Any, state: Any, parts: Parts) -> Result:
        assert parts == {}
        return Result(self.name, target={"kernel": "own"})
