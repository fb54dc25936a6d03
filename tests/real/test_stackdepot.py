"""The stack depot of the real vmcore: its records, and page_owner's counts, against the kernel's own text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.kernel.depot_table import follow_chains, hashes
from mmdump.kernel.stackdepot import StackStatus
from mmdump.plugins import Plugins
from mmdump.result import Result
from mmdump.scan import run_one
from tests.conftest import Run, Sample


@pytest.fixture(scope="module")
def checked(kernel: Kernel, plugins: Plugins) -> Result:
    return run_one(kernel, plugins.analyses()["stackdepot"](check=True))


def test_the_pools_hold_as_many_records_and_bytes_as_the_kernel_counts(kernel: Kernel) -> None:
    records, state = kernel.depot_records, kernel.depot_state
    assert records is not None
    assert state is not None
    assert len(records) == state.counters["DEPOT_COUNTER_PERSIST_COUNT"] == 648
    assert records.room.sum() == state.counters["DEPOT_COUNTER_PERSIST_BYTES"]
    assert not len(records.broken)


def test_each_record_is_the_stack_of_its_handle(kernel: Kernel) -> None:
    records, depot = kernel.depot_records, kernel.stack_depot
    assert records is not None
    assert depot is not None
    for row, handle in enumerate(records.handle.tolist()):
        stack = depot.stack(handle)
        start = records.starts[row]
        assert stack.status is StackStatus.OK
        assert stack.frames == tuple(records.frames[start : start + records.size[row]].tolist())


def test_each_record_has_the_hash_of_its_frames_and_is_in_its_chain(kernel: Kernel) -> None:
    records, state = kernel.depot_records, kernel.depot_state
    assert records is not None
    assert state is not None
    assert (hashes(records.frames, records.size) == records.hash).all()
    chains = follow_chains(kernel.target.prog, kernel.target.reader, state, records)
    assert chains is not None
    assert chains.reached.all()
    assert int(chains.lengths.sum()) == len(records)
    assert not len(chains.misplaced)


def test_the_kernels_counts_are_what_the_pages_say(checked: Result) -> None:
    stacks = checked.tables["stacks"].frame
    counted = stacks.filter(pl.col("counted_pages").is_not_null())
    assert counted.height > 500
    assert (counted["counted_pages"] == counted["scanned_pages"]).all()
    # The kernel does not count what was allocated before page_owner was ready.
    others = stacks.filter(pl.col("counted_pages").is_null() & (pl.col("scanned_pages") > 0))
    assert others["used_by"].to_list() == ["early_handle"]
    assert not checked.findings
    assert not checked.incomplete
    assert not checked.tables["broken"].frame.height


def test_what_the_depot_saves_adds_up(checked: Result, kernel: Kernel) -> None:
    row = checked.tables["depot"].frame.row(0, named=True)
    assert row["slot_bytes"] == kernel.memmap.pages * 64
    assert row["saved_bytes"] == kernel.memmap.pages * 60 - row["bytes"] - row["table_bytes"]
    assert row["duplicates"] == row["pages"] - row["stacks_of_pages"]
    assert row["pages"] == checked.tables["stacks"].frame["pages"].sum()


def test_without_a_check_no_page_is_looked_at(kernel: Kernel, plugins: Plugins) -> None:
    result = run_one(kernel, plugins.analyses()["stackdepot"]())
    assert result.coverage is None
    assert result.tables["stacks"].frame["scanned_pages"].null_count() == 648


def test_show_stacks_is_the_kernels_but_for_what_moved_since(
    mmdump: Callable[..., Run], dump: Path, sample: Sample
) -> None:
    run = mmdump("cat", dump, "show_stacks")
    assert run.status == 0, run.err
    ours, theirs = (_by_stack(text) for text in (run.out, sample.truth("page_owner_stacks.txt").decode()))
    # Every stack has its pages; which were many, and some came or went after the kernel's text was read.
    same = [stack for stack in theirs if ours.get(stack) == theirs[stack]]
    assert len(same) >= 0.95 * len(theirs)
    assert len(set(theirs) ^ set(ours)) <= 0.01 * len(theirs)
    # In the order of the list, newest first.
    both = [stack for stack in theirs if stack in ours]
    assert [stack for stack in ours if stack in theirs] == both
    assert np.mean([ours[stack] / theirs[stack] for stack in both]) == pytest.approx(1, abs=0.05)


def _by_stack(text: str) -> dict[str, int]:
    found = re.findall(r"((?: .*\n)+)nr_base_pages: (\d+)\n\n", text)
    assert sum(len(stack) + len(f"nr_base_pages: {count}\n\n") for stack, count in found) == len(text)
    return {stack: int(count) for stack, count in found}


def test_files_of_newer_kernels_are_absent_and_the_threshold_is_there(
    mmdump: Callable[..., Run], sample: Sample
) -> None:
    run = mmdump("cat", sample.kdump, "show_handles")
    assert run.status == 4
    assert "6.19" in run.err
    assert mmdump("cat", sample.kdump, "count_threshold").out == "0"
    assert "persistent_count: 648\n" in mmdump("cat", sample.kdump, "stackdepot/stats").out
