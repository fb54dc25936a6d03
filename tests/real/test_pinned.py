"""What resists migration on the real vmcore, against what the workload knew."""

from __future__ import annotations

import polars as pl

from mmdump.kernel import Kernel
from mmdump.plugins import Plugins
from mmdump.result import Result
from mmdump.scan import run_one
from tests.real import truth


def _held(pinned: Result) -> pl.DataFrame:
    return pinned.tables["pages"].frame.filter(pl.col("state") == "held")


def test_every_page_still_in_the_pipe_is_held(pinned: Result, workload: truth.Workload) -> None:
    assert workload.in_pipe
    assert workload.in_pipe <= set(_held(pinned)["pfn"])


def test_every_page_pinned_by_gup_test_has_a_foll_pin(pinned: Result, workload: truth.Workload) -> None:
    rows = _held(pinned).filter(pl.col("evidence").list.contains("foll_pin"))
    assert len(workload.gup_test) == 64
    assert workload.gup_test <= set(rows["pfn"])


def test_the_io_uring_buffers_thp_has_a_foll_pin(pinned: Result, workload: truth.Workload) -> None:
    [row] = _held(pinned).filter(pl.col("pfn") == workload.io_uring_head).to_dicts()
    assert row["evidence"] == ["foll_pin"]
    assert row["order"] == 9


def test_no_page_that_left_the_pipe_is_held(pinned: Result, workload: truth.Workload) -> None:
    assert workload.drained
    assert not workload.drained & set(_held(pinned)["pfn"])


def test_pages_that_left_the_pipe_and_were_marked_are_released(
    pinned: Result, workload: truth.Workload
) -> None:
    released = pinned.tables["pages"].frame.filter(pl.col("state") == "released")
    assert set(released["pfn"]) <= workload.drained
    assert set(map(tuple, released["evidence"])) == {("page_pinner",)}


def test_nothing_else_is_held(pinned: Result, workload: truth.Workload) -> None:
    known = workload.in_pipe | workload.gup_test | {workload.io_uring_head}
    assert set(_held(pinned)["pfn"]) == known


def test_owners_are_those_the_kernel_printed(pinned: Result, owner_text: dict[int, truth.Record]) -> None:
    stacks = dict(pinned.tables["stacks"].frame.select("stack_id", "frames").iter_rows())
    rows = pinned.tables["pages"].frame.to_dicts()
    assert rows
    for row in rows:
        record = owner_text[row["pfn"]]
        assert row["owner_order"] == record.order
        assert row["owner_gfp_mask"] == record.gfp_mask
        assert "|".join(row["owner_gfp_flags"]) == record.gfp_flags
        assert row["owner_pid"] == record.pid
        assert row["owner_tgid"] == record.tgid
        assert row["owner_comm"] == record.comm
        assert row["owner_ts_nsec"] == record.ts_nsec
        assert row["migratetype"] == record.migratetype
        assert tuple(stacks[row["stack_id"]]) == record.stack
        assert record.flags.split("|node=")[0] == "|".join(row["flags"])


def test_references_add_up(pinned: Result) -> None:
    pages = pinned.tables["pages"].frame
    assert (pages["explained"] + pages["excess"] == pages["refcount"]).all()


def test_the_cma_area_is_blocked_by_the_pages_in_the_pipe(
    kernel: Kernel, plugins: Plugins, workload: truth.Workload
) -> None:
    result = run_one(kernel, plugins.analyses()["pinned"](cma="reserved"))
    [area] = result.tables["cma"].frame.to_dicts()
    assert area["size"] == 64 << 20
    assert area["used"] == 8192 * 4096
    assert area["blockers"] == len(workload.in_pipe)
    assert area["longest_now"] < area["longest_without"]
    assert set(result.tables["pages"].frame["cma_area"]) == {"reserved"}
    [finding] = [each for each in result.findings if each.key == "cma-blocked"]
    assert "8 pages block it" in finding.message


def test_all_of_memory_was_read(pinned: Result) -> None:
    assert pinned.coverage is not None
    assert pinned.coverage.complete
    assert pinned.coverage.read == 131072
    assert pinned.coverage.page_ext is not None
    assert pinned.coverage.page_ext.read == 131072
    assert not pinned.incomplete
