"""The history of the pages of the real vmcore's pipe: in the way of CMA, and half of them read since."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.pagenotes import AskedPages
from mmdump.plugins import Plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_cma.failures import read_failures
from mmdump_page_pinner.notes import pinner_notes
from tests.conftest import Sample
from tests.real import truth


@pytest.fixture(scope="session")
def saved(
    kernel: Kernel, plugins: Plugins, sample: Sample, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    path = Path(tmp_path_factory.mktemp("saved") / "trace.txt")
    path.write_bytes(sample.truth("trace.txt"))
    return run_one(kernel, plugins.analyses()["pinned"](trace=str(path)))  # type: ignore[call-arg]


def _timelines(result: Result) -> pl.DataFrame:
    return result.tables["timelines"].frame


def test_every_page_of_the_pipe_that_failed_has_a_history(pinned: Result, workload: truth.Workload) -> None:
    frame = _timelines(pinned)
    failed = set(frame.filter(pl.col("failures") > 0)["pfn"])
    assert failed == set(frame["pfn"])
    assert workload.drained <= failed
    assert failed <= workload.drained | workload.in_pipe
    assert frame["failures"].sum() == 500


def test_who_asked_for_the_range_is_named(pinned: Result) -> None:
    assert set(_timelines(pinned)["asked_by"]) == {"cma_alloc_write of init 92"}
    assert set(_timelines(pinned)["purpose"]) == {"a CMA allocation"}


def test_the_migrations_puts_are_not_the_users(pinned: Result, workload: truth.Workload) -> None:
    frame = _timelines(pinned)
    # The first attempt marks the page: what it put before was not traced.
    assert (frame["migration_puts"] == frame["failures"] - 1).all()
    assert set(frame.filter(pl.col("user_puts") == 1)["pfn"]) == workload.drained
    assert frame["other_puts"].sum() == len(workload.drained)


def test_pages_that_left_the_pipe_were_put_by_its_reader(pinned: Result, workload: truth.Workload) -> None:
    rows = _timelines(pinned).filter(pl.col("pfn").is_in(workload.drained))
    assert set(rows["put_by"]) == {"pipe_read -> page_cache_pipe_buf_release"}
    assert set(rows["holder"]) == {"pipe"}
    assert set(rows["put_who"]) == {"work 70"}
    assert set(rows["state"]) == {"released"}
    for story in rows["story"]:
        assert story.startswith("blocked ")
        assert "by the migration itself, at 7.605" in story
        assert "by pipe_read -> page_cache_pipe_buf_release of work 70 (pipe)" in story


def test_pages_still_in_the_pipe_have_no_put_but_the_migrations(
    pinned: Result, workload: truth.Workload
) -> None:
    rows = _timelines(pinned).filter(pl.col("state") == "held")
    assert set(rows["pfn"]) <= workload.in_pipe
    assert len(rows) == 6
    assert all(each.endswith("by no other since") for each in rows["story"])


def test_it_is_told_in_sentences(pinned: Result) -> None:
    held, freed = [each.message for each in pinned.findings if each.key.startswith("history")]
    assert held.startswith(
        "6 held pages in CMA reserved that work 70 allocated stood in the way of a CMA allocation by"
    )
    assert "look there for a get without a put (pipe)" in held
    assert freed.startswith("8 pages in CMA reserved that work 70 allocated and that had stood")
    assert "put by pipe_read -> page_cache_pipe_buf_release of work 70" in freed


def test_where_to_look_is_only_said_of_pages_whose_holder_was_not_found(
    kernel: Kernel, plugins: Plugins, workload: truth.Workload
) -> None:
    found = run_one(kernel, plugins.analyses()["pinned"](holders=True))  # type: ignore[call-arg]
    [held] = [each.message for each in found.findings if each.key == "history-held"]
    assert held.endswith("has no put yet; now held: 6 by pipe of pid 70 (work), fd 3, 4.")
    assert "look there" not in held


def test_the_saved_text_tells_the_same(pinned: Result, saved: Result) -> None:
    # The text has microseconds, and names without offsets.
    for name in ("timelines", "history"):
        one, other = pinned.tables[name].frame, saved.tables[name].frame
        times = [each for each in one.columns if one[each].dtype == pl.UInt64]
        for each in times:
            apart = one[each].cast(pl.Int64) - other[each].cast(pl.Int64)
            assert one[each].null_count() == other[each].null_count()
            assert apart.abs().fill_null(0).max() <= 500
        drop = [*times, *(each for each in ("stack", "story") if each in one.columns)]
        assert one.drop(drop).equals(other.drop(drop))
    untimed = [
        [re.sub(r"\d+\.\d{6}", "", each.message) for each in result.findings] for result in (saved, pinned)
    ]
    assert untimed[0] == untimed[1]
    assert any(
        note.endswith("clock its times are of: it is taken for trace clock local, as in the dump.")
        for note in saved.notes
    )


def test_the_story_agrees_with_the_kernels_log(kernel: Kernel, pinned: Result) -> None:
    [failure] = [each for each in read_failures(kernel) if each.area == "reserved" and each.pages == 16384]
    assert failure.nsec // 1000 == 7_168_146
    frame = pinned.tables["history"].frame
    allocated = frame.filter(pl.col("event") == "allocated")["time"].max()
    first, second = frame.filter(pl.col("event") == "failure")["time"].sort()[:2]
    # The first attempt is of the whole area: it was stopped by one page, and the log says so at once.
    assert allocated < first < failure.nsec < second
    assert failure.nsec - first < 1_000_000
    assert any("0.355249 s less than by trace clock local" in note for note in pinned.notes)


def test_the_history_has_every_event_with_its_stack(pinned: Result) -> None:
    frame = pinned.tables["history"].frame
    assert frame["event"].value_counts().sort("event").rows() == [
        ("allocated", 14),
        ("failure", 500),
        ("put", 494),
    ]
    assert frame["stack"].null_count() == 0
    assert frame.filter(pl.col("event") == "put")["class"].unique().sort().to_list() == ["migration", "user"]
    for _, rows in frame.group_by("pfn"):
        assert rows["time"].is_sorted()
        assert rows["event"][0] == "allocated"


def test_the_facts_about_a_page_tell_its_history(kernel: Kernel, workload: truth.Workload) -> None:
    pfns = sorted(workload.drained)[:2]
    found = pinner_notes(kernel, AskedPages(kernel, [*pfns, 0x100]))
    for pfn in pfns:
        [history] = [fact.value for fact in found[pfn][0].facts if fact.label == "history"]
        assert "by pipe_read -> page_cache_pipe_buf_release of work 70 (pipe)" in str(history[-1])
    assert not [fact for fact in found[0x100][0].facts if fact.label == "history"]
