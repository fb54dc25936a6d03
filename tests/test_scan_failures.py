"""The driver: progress, and what is left of an answer where something fails."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from mmdump import scan
from mmdump.analysis import Columns, Need, Parts
from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.render import open_renderer
from mmdump.result import Result, Schema
from tests.fake_scan import Count, Every, FakeKernel, NoPages


@pytest.fixture(autouse=True)
def no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "summarise", lambda _target: {"kernel": "fake"})


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
