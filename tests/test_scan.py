"""The driver: whatever way memory is cut, the answer is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump import scan
from mmdump.analysis import Analysis, Columns, Parts
from mmdump.errors import UnsupportedError
from mmdump.result import Coverage, Result, Schema
from mmdump.target import ReadStatus
from tests.fake_scan import ROWS, Count, Every, FakeKernel, NoPages


@pytest.fixture(autouse=True)
def no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "summarise", lambda _target: {"kernel": "fake"})


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
