"""Huge pages of the real vmcore: the workload's, as its truth file and the kernel's own files have them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmdump.kernel import Kernel
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_thp import Thp
from tests.conftest import Sample


@pytest.fixture(scope="module")
def found(kernel: Kernel) -> Result:
    return run_one(kernel, Thp())


def test_there_is_a_row_for_each_of_the_kernels_huge_pages(found: Result, sample: Sample) -> None:
    words = np.frombuffer(sample.truth("kpageflags.bin"), "<u8")
    heads = np.flatnonzero((words >> np.uint64(22) & words >> np.uint64(15) & np.uint64(1)) != 0)
    assert found.tables["folios"].frame["pfn"].to_list() == heads.tolist()


def test_each_is_mapped_as_kpagecount_says(found: Result, sample: Sample) -> None:
    counts = np.frombuffer(sample.truth("kpagecount.bin"), "<u8").astype(np.int64)
    for row in found.tables["folios"].frame.iter_rows(named=True):
        theirs = counts[row["pfn"] : row["pfn"] + (1 << row["order"])]
        assert np.count_nonzero(theirs) == row["pages_mapped"]
        assert theirs.sum() == (row["entire_mapcount"] << row["order"]) + row["pte_mapcount"]


def test_nothing_is_wrong_with_a_healthy_kernel(found: Result) -> None:
    frame = found.tables["folios"].frame
    assert frame["consistent"].all()
    assert (frame["mappings_found"] == frame["mapcount"]).all()
    assert not found.findings
    assert not found.incomplete


def test_the_buffer_that_io_uring_pins_is_pinned(found: Result, sample: Sample) -> None:
    head = int(re.search(r"longpinhuge .*head pfn=(0x[0-9a-f]+)", sample.truth("truth.txt").decode())[1], 16)
    frame = found.tables["folios"].frame
    assert frame.filter(frame["pincount"] > 0)["pfn"].to_list() == [head]


def test_every_folio_is_charged_to_a_memory_cgroup(found: Result) -> None:
    assert set(found.tables["folios"].frame["memcg"]) == {"/"}


def test_huge_pages_of_each_process_are_as_in_its_smaps(found: Result, sample: Sample) -> None:
    ours = {row["pid"]: row["AnonHugePages"] for row in found.tables["processes"].frame.iter_rows(named=True)}
    theirs = {
        int(part.split("\n", 1)[0]): sum(
            int(kib) << 10 for kib in re.findall(r"^AnonHugePages: +(\d+) kB", part, re.M)
        )
        for part in re.split(r"^== /proc/", sample.truth("smaps.txt").decode(), flags=re.M)[1:]
    }
    # khugepaged made one of the parent's pages huge in the moment between that reading and the dump.
    owners = sample.truth("page_owner.txt").decode()
    [late] = re.findall(r"tgid \d+ \(khugepaged\).*\nPFN (0x[0-9a-f]+) ", owners)
    rows = found.tables["folios"].frame
    [pid] = rows.filter(rows["pfn"] == int(late, 16))["pids"].item().to_list()
    theirs[pid] += 2 << 20
    assert {pid: size for pid, size in theirs.items() if size} == {k: v for k, v in ours.items() if v}
