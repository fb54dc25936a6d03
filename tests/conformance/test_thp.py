"""Large folios of real kernels: what the workload made of them, what smaps, kpagecount and kpageflags say."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump.target import open_target
from mmdump_thp import Thp
from testbed.check import reading
from testbed.truth import parse_truth

_WHERE = os.environ.get("MMDUMP_TESTBED_RUNS")
#: The newest of each sort has a link that bears the sort's name.
RUNS = [
    pytest.param(each, id=each.name)
    for each in sorted(Path(_WHERE).iterdir() if _WHERE else [])
    if each.is_symlink() and (each / "run.json").is_file() and (each / "vmcore.elf").is_file()
]
pytestmark = pytest.mark.skipif(not RUNS, reason="MMDUMP_TESTBED_RUNS names no directory with runs")

_COMPOUND_HEAD, _THP, _MLOCKED = 15, 22, 33


@cache
def thp(run: Path, *, hugetlb: bool = False) -> Result:
    with open_target(run / "vmcore.elf", symbols=[run / "vmlinux"]) as target:
        return run_one(Kernel(target), Thp(hugetlb=hugetlb))


def folios(run: Path) -> pl.DataFrame:
    return thp(run).tables["folios"].frame


def standing(run: Path, file: str) -> tuple[np.ndarray, np.ndarray]:
    """The words of a kernel file after the dump, and which were the same before it."""
    before, after = (np.frombuffer(each, "<u8") for each in reading(run, file))
    return after, before == after


@pytest.mark.parametrize("run", RUNS)
def test_every_huge_page_of_the_kernel_is_a_folio_and_no_other(run: Path) -> None:
    words, _ = standing(run, "/proc/kpageflags")
    theirs = np.flatnonzero(
        (words >> np.uint64(_THP) & words >> np.uint64(_COMPOUND_HEAD) & np.uint64(1)) != 0
    )
    assert folios(run)["pfn"].to_list() == theirs.tolist()


@pytest.mark.parametrize("run", RUNS)
def test_mappings_of_every_folio_are_those_of_kpagecount(run: Path) -> None:
    counts, still = standing(run, "/proc/kpagecount")
    checked = 0
    for row in folios(run).iter_rows(named=True):
        inside = slice(row["pfn"], row["pfn"] + (1 << row["order"]))
        if not still[inside].all():
            continue
        theirs = counts[inside].astype(np.int64)
        assert np.count_nonzero(theirs) == row["pages_mapped"]
        assert theirs.sum() == (row["entire_mapcount"] << row["order"]) + row["pte_mapcount"]
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("run", RUNS)
def test_counters_agree_with_each_other_and_with_the_page_tables(run: Path) -> None:
    found = thp(run, hugetlb=True)
    rows = found.tables["folios"].frame
    assert rows["consistent"].all()
    assert (rows["mappings_found"] == rows["mapcount"]).all()
    assert not len(found.tables["orphans"].frame)
    assert {each.key for each in found.findings} <= {"partially-mapped"}
    assert not found.incomplete


@pytest.mark.parametrize("run", RUNS)
def test_huge_pages_of_each_process_are_as_in_its_smaps(run: Path) -> None:
    names = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
    ours = {row["pid"]: row for row in thp(run).tables["processes"].frame.iter_rows(named=True)}
    having = 0
    for file in (run / "truth" / "after" / "proc").glob("[0-9]*/smaps"):
        text = file.read_text()
        theirs = [
            sum(int(kib) << 10 for kib in re.findall(rf"^{name}: +(\d+) kB", text, re.M)) for name in names
        ]
        row = ours.get(int(file.parent.name), dict.fromkeys(names, 0))
        assert theirs == [row[name] for name in names], file
        having += any(theirs)
    assert having >= 5


@pytest.mark.parametrize("run", RUNS)
def test_what_is_mlocked_or_pinned_is_as_the_kernel_and_the_workload_say(run: Path) -> None:
    words, still = standing(run, "/proc/kpageflags")
    pinned = set()
    for line in parse_truth((run / "truth" / "truth.txt").read_text()):
        if line.kind == "longpinhuge" and "head pfn" in line.values:
            pinned.add(int(line.values["head pfn"], 0))
    rows = folios(run)
    for row in rows.filter(pl.Series(still[rows["pfn"].to_numpy()])).iter_rows(named=True):
        assert row["mlocked"] == bool(words[row["pfn"]] >> np.uint64(_MLOCKED) & np.uint64(1))
    assert set(rows.filter(pl.col("pincount") > 0)["pfn"]) == pinned


@pytest.mark.parametrize("run", RUNS)
def test_the_workloads_huge_pages_are_in_the_states_it_put_them_in(run: Path) -> None:
    lines = parse_truth((run / "truth" / "truth.txt").read_text())
    text = [each.text for each in lines if each.kind == "thp"]
    parent = int(re.search(r"parent pid=(\d+)", "\n".join(text))[1])
    child = int(re.search(r"child pid=(\d+)", "\n".join(text))[1])
    heads = {
        int(number): int(pfn, 16)
        for number, pfn in re.findall(r"parent pid=\d+ idx=(\d+) .*pfn=(0x[0-9a-f]+)", "\n".join(text))
    }
    did: dict[int, set[tuple[str, str]]] = {}
    for number, who, what in re.findall(r"state pid=\d+ idx=(\d+) in=(\w+) what=([\w-]+)", "\n".join(text)):
        did.setdefault(int(number), set()).add((who, what))
    rows: dict[int, dict[str, Any]] = {row["pfn"]: row for row in folios(run).iter_rows(named=True)}
    assert len(heads) >= 6
    for number, pfn in heads.items():
        row = rows[pfn]
        nr = 1 << row["order"]
        pmds = dict(zip(row["pids"], row["pid_pmds"], strict=True))
        ptes = dict(zip(row["pids"], row["pid_ptes"], strict=True))
        expected_pmds, expected_ptes = {parent: 1, child: 1}, {parent: 0, child: 0}
        for who, what in did.get(number, set()):
            pid = parent if who == "parent" else child
            if what in ("first-half-unmapped", "second-half-unmapped"):
                expected_pmds[pid], expected_ptes[pid] = 0, nr // 2
            elif what == "pmd-split-by-mprotect":
                expected_pmds[pid], expected_ptes[pid] = 0, nr
            elif what == "first-page-written":
                # A copy of one page; the rest stays shared, by PTEs.
                expected_pmds[pid], expected_ptes[pid] = 0, nr - 1
            elif what == "not-in-child":
                del expected_pmds[child], expected_ptes[child]
            elif what == "mlocked":
                # mlock() of private memory writes to it: the parent has copies of its own since.
                del expected_pmds[parent], expected_ptes[parent]
        assert (row["kind"], row["state"], pmds, ptes) == ("anon", "whole", expected_pmds, expected_ptes), (
            number
        )
        both = any(pmds.values()) and any(ptes.values())
        assert row["double_map"] == both
        if row["PG_double_map"] is not None:
            # Split in one process while another mapped the whole: until that ends, too, the flag stays.
            assert row["PG_double_map"] == (both or ("parent", "mlocked") in did.get(number, set()))
        if row["mm_ids"]:
            assert sum(row["mm_id_mapcounts"]) == row["mapcount"]
        halves = [what for _, what in did.get(number, set()) if "half" in what]
        assert row["partially_mapped"] == (len(halves) == len(expected_pmds) > 0 and not any(pmds.values()))
        if row["partially_mapped"]:
            assert row["deferred"]
            assert row["waste"] == row["size"] // 2
