"""Who holds pages of the real vmcore, against what the workload knew."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.kernel.references import account_references
from mmdump.plugins import Plugins
from mmdump.result import Result
from mmdump.scan import Ranges, run_one
from tests.conftest import Sample
from tests.real import truth

#: Random folios that are looked at, and the seed that chooses them.
_RANDOM, _SEED = 1000, 20


@pytest.fixture(scope="module")
def held(kernel: Kernel, plugins: Plugins) -> Result:
    return run_one(kernel, plugins.analyses()["pinned"](holders=True))


def _live(result: Result) -> pl.DataFrame:
    holders = result.tables["holders"].frame
    return holders.filter((pl.col("state") == "live") & pl.col("counted").is_in(["reference", "pin"]))


def _of(result: Result, kind: str) -> pl.DataFrame:
    return _live(result).filter(pl.col("kind") == kind)


def _holders(kernel: Kernel, plugins: Plugins, pfns: Sequence[int], **options: bool) -> Result:
    asked = tuple(f"{pfn:#x}" for pfn in pfns)
    return run_one(kernel, plugins.analyses()["holders"](pages=asked, **options))


def _pid(sample: Sample, what: str) -> int:
    """The process that the workload says does this."""
    found = re.search(rf"^{what} pid=(\d+)", sample.truth("truth.txt").decode(), re.MULTILINE)
    assert found
    return int(found[1])


def test_every_page_in_the_pipe_is_named_by_pipe_process_and_descriptor(
    held: Result, workload: truth.Workload, sample: Sample
) -> None:
    rows = _of(held, "pipe")
    assert set(rows["pfn"]) == workload.in_pipe
    assert set(rows["pid"]) == {_pid(sample, "splice")}
    assert set(rows["held_by"]) == {f"pid {_pid(sample, 'splice')} (work), fd 3, 4"}
    # The workload drained the first half: what is left are the other slots, in order.
    slots = [int(re.search(r"buffer (\d+) of 16", what)[1]) for what in rows.sort("address")["what"]]  # type: ignore[index]
    assert slots == list(range(8, 16))


def test_every_page_of_gup_test_is_named_by_its_array_and_process(
    held: Result, workload: truth.Workload, sample: Sample
) -> None:
    rows = _of(held, "gup_test").sort("address")
    order = [int(pfn, 16) for pfn in re.findall(r"longpin pfn=(0x\w+)", sample.truth("truth.txt").decode())]
    assert rows["pfn"].to_list() == order
    assert rows["what"].to_list() == [f"page {index} of 64" for index in range(64)]
    assert set(rows["held_by"]) == {f"pid {_pid(sample, 'longpin')} (work), fd 3"}
    assert set(rows["counted"]) == {"pin"}


def test_the_io_uring_thp_is_named_by_ring_process_and_buffer(
    held: Result, workload: truth.Workload, sample: Sample
) -> None:
    [row] = _of(held, "io_uring").to_dicts()
    assert row["pfn"] == workload.io_uring_head
    assert row["held_by"] == f"pid {_pid(sample, 'longpinhuge')} (work), fd 3"
    assert row["what"].startswith("buffer 0 of 1 ")


def test_no_reference_is_missing_and_none_is_held_twice(held: Result, workload: truth.Workload) -> None:
    balance = held.tables["balance"].frame
    assert len(balance) == 73
    assert balance["missing"].sum() == 0
    assert balance["surplus"].sum() == 0
    assert not [each.key for each in held.findings if each.key.startswith("holder-")]


def test_nothing_else_holds_them(held: Result) -> None:
    assert set(_live(held)["kind"]) == {"pipe", "gup_test", "io_uring"}


def test_a_page_that_left_the_pipe_has_a_stale_slot_and_no_holder(
    kernel: Kernel, plugins: Plugins, workload: truth.Workload
) -> None:
    result = _holders(kernel, plugins, sorted(workload.drained))
    assert not len(_live(result))
    stale = result.tables["holders"].frame.filter((pl.col("kind") == "pipe") & (pl.col("state") == "stale"))
    assert set(stale["pfn"]) == workload.drained
    assert result.tables["balance"].frame["missing"].sum() == 0


def explained_folios(kernel: Kernel, count: int) -> tuple[list[int], set[int]]:
    """Random allocated folios whose references are all explained; and all such that are users' memory."""
    chosen, users = [], set()
    for pages in Ranges(kernel):
        heads = np.flatnonzero((pages.refcount > 0) & ~pages.is_tail & ~pages.has_flag("PG_reserved"))
        account = account_references(pages, heads, kernel.folio_batches)
        heads = heads[(account.excess == 0) & (account.pincount == 0)]
        chosen.append(heads + pages.start)
        kinds = account_references(pages, heads, kernel.folio_batches).kinds
        users |= set((heads[kinds.anon | kinds.file | kinds.shmem] + pages.start).tolist())
    found = np.random.default_rng(_SEED).choice(np.concatenate(chosen), count, replace=False)
    return sorted(found.tolist()), users


def test_a_page_whose_references_are_all_explained_has_no_other_holder(
    kernel: Kernel, plugins: Plugins
) -> None:
    pfns, users = explained_folios(kernel, _RANDOM)
    assert len(pfns) == _RANDOM
    result = _holders(kernel, plugins, pfns)
    balance = result.tables["balance"].frame
    assert len(balance) == _RANDOM
    assert balance["surplus"].sum() == 0
    assert balance["missing"].sum() == 0
    # Of the kernel's own pages one may be known by who allocated it: that is the reference that it has.
    live = _live(result)
    assert not users & set(live["pfn"])
    assert set(live["kind"]) <= {"vmalloc", "pipe", "socket"}


def test_a_tail_leads_to_its_folio(kernel: Kernel, plugins: Plugins, workload: truth.Workload) -> None:
    result = _holders(kernel, plugins, [workload.io_uring_head + 17])
    assert result.tables["holders"].frame["pfn"].to_list() == [workload.io_uring_head]


def test_page_says_who_holds_it(kernel: Kernel, plugins: Plugins, workload: truth.Workload) -> None:
    from mmdump.pageinfo import page_info
    from mmdump.pagewords import find_page

    pfn = min(workload.in_pipe)
    words = [find_page(kernel, hex(pfn))]
    facts = page_info(kernel, plugins, words, holders=True).tables["facts"].frame
    [said] = facts.filter(pl.col("fact") == "live: pipe")["value"]
    assert "(work), fd 3, 4: buffer 8 of 16" in said
    without = page_info(kernel, plugins, words).tables["facts"].frame
    assert "holders" not in set(without["section"])
