"""The driver: whatever way memory is cut, the answer is the same."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump import scan
from mmdump.analysis import Analysis, Columns, Need, Parts
from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.kernel.memmap import MemMap
from mmdump.render import open_renderer
from mmdump.result import Column, Coverage, Result, Schema, Table
from mmdump.target import ReadStatus
from tests.kernel.builders import EXT_LAYOUT, VMEMMAP, sections

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


@pytest.fixture(autouse=True)
def no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "summarise", lambda _target: {"kernel": "fake"})


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


@dataclass
class Sink:
    """Takes rows until it has enough."""

    wanted: int = 1 << 40
    frames: list[pl.DataFrame] = field(default_factory=list)
    began: list[Schema] = field(default_factory=list)

    @property
    def satisfied(self) -> bool:
        return sum(map(len, self.frames)) >= self.wanted

    def needs(self, schema: Schema) -> frozenset[str]:
        return frozenset(schema.names)

    def begin(self, schema: Schema) -> None:
        self.began.append(schema)

    def rows(self, frame: pl.DataFrame) -> None:
        self.frames.append(frame)


CUTS = st.sets(st.integers(0, 3000), min_size=2, max_size=12).map(sorted)


@given(CUTS, st.integers(1, 400), st.integers(1, 40))
def test_the_answer_does_not_depend_on_how_rows_are_cut_batched_and_folded(
    cuts: list[int], batch: int, fold: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_BATCH_ROWS", batch)
        patch.setattr(scan, "_FOLD_ROWS", fold)
        result = scan.run_one(FakeKernel(cuts), Every())
    pfns = range(cuts[0], cuts[-1])
    rows = result.tables["rows"].frame
    assert rows.rows() == [(pfn, 7 * pfn) for pfn in pfns if pfn % 3 == 0]
    expected: dict[int, list[int]] = {}
    for pfn in pfns:
        entry = expected.setdefault(pfn % 7, [pfn % 7, 0, 0])
        entry[1] += 1
        entry[2] += pfn
    assert result.tables["sums"].frame.rows() == [tuple(expected[key]) for key in sorted(expected)]
    assert result.coverage == Coverage(len(pfns), len(pfns))


def test_rows_are_folded_so_that_they_do_not_grow_with_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BATCH_ROWS", 10)
    monkeypatch.setattr(scan, "_FOLD_ROWS", 50)
    kept = []
    fold = Every.fold

    def watched(self: Every, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        kept.append(len(frame))
        return fold(self, part, frame)

    monkeypatch.setattr(Every, "fold", watched)
    scan.run_one(FakeKernel(list(range(0, 20000, 20))), Every())
    assert max(kept) <= 50 + 7 * 2


def test_small_ranges_wait_for_each_other_and_make_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    batch = Every.batch

    def watched(self: Every, rows: Parts, state: int) -> Parts:
        calls.append(len(rows["sums"]))
        return batch(self, rows, state)

    monkeypatch.setattr(Every, "batch", watched)
    scan.run_one(FakeKernel(list(range(0, 1001, 10))), Every())
    assert calls == [1000]


STATUSES = st.lists(st.sampled_from(list(ReadStatus)), max_size=3100)


@given(CUTS, STATUSES, STATUSES)
def test_coverage_adds_up_over_all_ranges(
    cuts: list[int], status: list[ReadStatus], ext_status: list[ReadStatus]
) -> None:
    kernel = FakeKernel(cuts, np.array(status, np.uint8), np.array(ext_status, np.uint8))
    every, count = scan.run(kernel, [Every(), Count()])
    total = cuts[-1] - cuts[0]

    def expected(given: list[ReadStatus], **more: Coverage) -> Coverage:
        seen = given[cuts[0] : cuts[-1]]
        return Coverage(
            total,
            total - len(seen) + seen.count(ReadStatus.READ),
            seen.count(ReadStatus.UNREADABLE),
            seen.count(ReadStatus.ZERO_FILLED),
            seen.count(ReadStatus.ERASED),
            **more,
        )

    assert every.coverage == expected(status)
    assert count.coverage == expected(status, page_ext=expected(ext_status))
    lost = every.coverage.unreadable + every.coverage.erased
    assert any(f"struct page of {lost} of {total}" in line for line in count.incomplete) == bool(lost)
    lost = count.coverage.page_ext.unreadable + count.coverage.page_ext.erased
    assert any(f"page_ext of {lost} of {total}" in line for line in count.incomplete) == bool(lost)


def test_parts_of_the_section_table_that_are_missing_leave_the_answer_incomplete() -> None:
    kernel = FakeKernel([0, 10])
    object.__setattr__(kernel.memmap, "unreadable_sections", 3)
    assert any(line.startswith("3 parts") for line in scan.run_one(kernel, Count()).incomplete)


def test_several_analyses_share_one_pass_and_answer_in_their_order() -> None:
    kernel = FakeKernel([0, 10, 20])
    results = scan.run(kernel, [Count(), NoPages(), Every()])
    assert [result.analysis for result in results] == ["count", "no-pages", "every"]
    assert kernel.read == [(0, 10), (10, 20)]
    assert results[0].summary == ["20"]
    assert results[1].coverage is None
    assert results[1].target == {"kernel": "own"}
    assert results[2].target == {"kernel": "fake"}


def test_page_ext_is_read_only_for_those_who_want_it_and_where_it_is() -> None:
    kernel = FakeKernel([0, 10])
    assert scan.run_one(kernel, Every()).coverage.page_ext is None
    assert kernel.asked_ext == [False]
    assert scan.run_one(kernel, Count()).coverage.page_ext == Coverage(10, 10)
    assert kernel.asked_ext == [False, True]
    bare = FakeKernel([0, 10], page_ext=SimpleNamespace(enabled=lambda _name: False, flags={}))
    assert scan.run_one(bare, Count()).coverage.page_ext is None


def test_an_unknown_page_ext_is_no_trouble_to_those_who_do_not_need_it() -> None:
    class Unknown:
        def enabled(self, name: str) -> bool:
            raise UnsupportedError("page_ext of another form")

        flags = property(lambda self: self.enabled(""))

    class Kernel(FakeKernel):
        page_ext = property(lambda self: Unknown().enabled(""), lambda self, value: None)

    assert scan.run_one(Kernel([0, 10]), Every()).coverage.read == 10
    assert scan.run_one(Kernel([0, 10]), NoPages()).coverage is None
    with pytest.raises(UnsupportedError):
        scan.run_one(Kernel([0, 10]), Count())


# Streams


def test_streamed_rows_go_to_the_sink_as_they_come_and_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BATCH_ROWS", 1)
    sink = Sink()
    result = scan.run_one(FakeKernel([0, 30, 60]), Every(), sink)
    assert sink.began == [ROWS]
    assert [len(frame) for frame in sink.frames] == [10, 10]
    assert list(result.tables) == ["sums"]


def test_a_sink_that_has_enough_ends_the_scan_and_coverage_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "_BATCH_ROWS", 1)
    kernel = FakeKernel(list(range(0, 101, 10)))
    result = scan.run_one(kernel, Every(), Sink(wanted=6))
    assert kernel.read == [(0, 10), (10, 20)]
    assert result.coverage.pages == 20
    assert result.tables["sums"].frame["pages"].sum() == 20


def test_the_scan_goes_on_for_an_analysis_that_wants_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BATCH_ROWS", 1)
    kernel = FakeKernel(list(range(0, 101, 10)))
    _, count = scan.run(kernel, [Every(), Count()], [Sink(wanted=1), None])
    assert count.summary == ["100"]


@dataclass(frozen=True)
class Silent(Analysis):
    """A stream that has no rows in this memory."""

    name = "silent"
    summary = "silent"
    stream = ROWS

    def scan(self, pages: Any, state: Any) -> Mapping[str, Columns]:
        return {}

    def finish(self, kernel: Any, state: Any, parts: Parts) -> Result:
        return Result(self.name, primary="rows")


@dataclass(frozen=True)
class SilentWithoutPages(Silent):
    scans = False


@pytest.mark.parametrize("silent", [Silent(), SilentWithoutPages()])
def test_a_stream_without_rows_is_an_empty_table(silent: Analysis) -> None:
    table = scan.run_one(FakeKernel([0, 10]), silent).tables["rows"]
    assert table.schema == ROWS
    assert len(table.frame) == 0


# Progress and errors


def test_progress_ascends_to_all_pages() -> None:
    calls: list[tuple[int, int]] = []
    scan.run_one(
        FakeKernel([5, 10, 17, 30]), Count(), progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(5, 25), (12, 25), (25, 25)]


def test_memory_without_pages_is_an_error_and_not_an_empty_answer() -> None:
    with pytest.raises(MmdumpError):
        scan.run_one(FakeKernel([0]), Count())
    assert scan.run_one(FakeKernel([0]), NoPages()).analysis == "no-pages"


def test_an_analysis_that_cannot_run_says_the_first_reason_before_anything_is_read() -> None:
    @dataclass(frozen=True)
    class Needy(Count):
        needs = (Need(lambda _: None), Need(lambda _: "no such thing"), Need(lambda _: 1 / 0))

    kernel = FakeKernel([0, 10])
    with pytest.raises(UnsupportedError, match="count: no such thing"):
        scan.run_one(kernel, Needy())
    assert not kernel.read


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (IncompleteError("the free lists are gone"), "the free lists are gone"),
        (KeyError("a plugin's own"), 'KeyError: "a plugin\'s own"'),
    ],
)
def test_a_failing_end_leaves_the_rows_that_went_out_and_says_so(error: Exception, words: str) -> None:
    @dataclass(frozen=True)
    class NoEnd(Every):
        def finish(self, kernel: Any, state: int, parts: Parts) -> Result:
            raise error

    out = io.BytesIO()
    renderer = open_renderer("json", out)
    [result, count] = scan.run(FakeKernel([0, 10, 20]), [NoEnd(), Count()], [renderer, None])
    renderer.finish(result)
    written = json.loads(out.getvalue())
    assert len(written["tables"]["rows"]["rows"]) == len(range(0, 20, 3))
    assert written["coverage"]["pages"] == 20
    assert written["incomplete"] == [f"every failed at its end, so that there is no more than rows: {words}"]
    assert count.summary == ["20"]
    # Where nothing has been given away, nothing is hidden.
    with pytest.raises(type(error)):
        scan.run_one(FakeKernel([0, 10, 20]), NoEnd())


@dataclass(frozen=True)
class Stumbles(Every):
    """Fails at the pages from PFN 10, in the call of that name."""

    where: str = ""

    def scan(self, pages: Any, state: int) -> Mapping[str, Columns]:
        if self.where == "scan" and pages.start == 10:
            raise KeyError("a plugin's own")
        return super().scan(pages, state)

    def batch(self, rows: Parts, state: int) -> Parts:
        if self.where == "batch" and rows["rows"]["pfn"][0] >= 10:
            raise KeyError("a plugin's own")
        return super().batch(rows, state)


class UnreadableFrom10(FakeKernel):
    def pages(self, start: int, end: int, *, ext: bool = False, blocks: bool = True) -> SimpleNamespace:
        if start == 10:
            raise KeyError("a plugin's own")
        return super().pages(start, end, ext=ext, blocks=blocks)


@pytest.mark.parametrize("written_as", ["json", "jsonl", "text"])
@pytest.mark.parametrize(
    ("where", "kernel", "pages", "at_once"),
    [
        ("scan", FakeKernel, 20, 1),
        # Rows that waited go out all the same.
        ("scan", FakeKernel, 20, 1 << 14),
        ("batch", FakeKernel, 20, 1),
        ("reading", UnreadableFrom10, 10, 1),
    ],
)
def test_an_analysis_that_fails_on_its_way_leaves_the_rows_that_went_out_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    written_as: str,
    where: str,
    kernel: type[FakeKernel],
    pages: int,
    at_once: int,
) -> None:
    monkeypatch.setattr(scan, "_BATCH_ROWS", at_once)
    out = io.BytesIO()
    renderer = open_renderer(written_as, out)
    [result] = scan.run(kernel([0, 10, 20, 30]), [Stumbles(where=where)], [renderer])
    renderer.finish(result)
    assert result.coverage is not None
    assert result.coverage.pages == pages
    [why] = result.incomplete
    begun = 0 if where == "reading" else 10
    assert why == (
        f"every failed when it had come to PFN {begun}, so that there is no more than rows: "
        'KeyError: "a plugin\'s own"'
    )
    if written_as == "json":
        written = json.loads(out.getvalue())
        assert [row["pfn"] for row in written["tables"]["rows"]["rows"]] == [0, 3, 6, 9]
        assert written["incomplete"] == [why]
    # Where nothing has been given away, nothing is hidden.
    with pytest.raises(KeyError):
        scan.run_one(kernel([0, 10, 20, 30]), Stumbles(where=where))


def test_what_fails_to_take_the_rows_is_no_failure_of_the_analysis() -> None:
    class Disk:
        satisfied = False

        def needs(self, schema: Schema) -> frozenset[str]:
            return frozenset(schema.names)

        def begin(self, schema: Schema) -> None:
            pass

        def rows(self, frame: pl.DataFrame) -> None:
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        scan.run(FakeKernel([0, 10, 20]), [Every()], [Disk()])
