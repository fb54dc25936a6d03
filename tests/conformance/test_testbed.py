"""Whatever the test bed has produced: every record that stood still is equal in every dump."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.check import dumps_of, moves, reading
from testbed.conformance import FILES, conformance
from testbed.held import expected, failures_in_trace, judge, pinned_rows
from testbed.sort import compare_sorted, tool_of
from testbed.told import compare_told, read
from testbed.truth import parse_truth

#: A directory of the test bed's runs, one directory each.
RUNS_VARIABLE = "MMDUMP_TESTBED_RUNS"


def _runs() -> list[Path]:
    where = os.environ.get(RUNS_VARIABLE)
    if not where:
        return []
    # The newest of each sort has a link that bears the sort's name.
    return sorted(
        each for each in Path(where).iterdir() if each.is_symlink() and (each / "run.json").is_file()
    )


DUMPS = [pytest.param(run, dump, id=f"{run.name}-{dump.name}") for run in _runs() for dump in dumps_of(run)]


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_what_stood_still_is_equal_in_the_dump(run: Path, dump: Path) -> None:
    if why := moves(run):
        pytest.skip(why)
    found = list(conformance(dump, run / "vmlinux", lambda file: reading(run, file)))
    assert [each.file for each in found] == list(FILES)
    for each in found:
        assert each.absent is not None or each.perfect, each.row()


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_pinned_finds_what_the_workload_holds_and_no_more(run: Path, dump: Path) -> None:
    want = expected(parse_truth((run / "truth" / "truth.txt").read_text()))
    traces = reading(run, "/sys/kernel/tracing/trace")
    failures = failures_in_trace(traces[0].decode(errors="replace")) if traces else set()
    verdict = judge(pinned_rows(dump, run / "vmlinux"), want, failures)
    assert want.pinned | want.held
    assert not verdict.wrong


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_page_owner_sort_says_the_same_of_the_dump_and_of_the_kernel(run: Path, dump: Path) -> None:
    if why := moves(run):
        pytest.skip(why)
    if tool_of(run) is None:
        pytest.skip("page_owner_sort was not built: that needs the kernel's source and a compiler")
    readings = reading(run, "/sys/kernel/debug/page_owner")
    if not readings:
        pytest.skip("this kernel has no page_owner")
    found = compare_sorted(run, dump, readings)
    assert found.perfect, [options for options, *_ in found.differences]


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_what_is_reported_is_what_the_hypervisor_was_told(run: Path, dump: Path) -> None:
    if why := moves(run):
        pytest.skip(why)
    found = compare_told(run, dump, reading(run, "/proc/kpageflags"))
    if found.absent is not None:
        pytest.skip(found.absent)
    # With pageblocks of 32 MiB a small guest has not enough free memory for a report.
    assert found.stable > 1 or not read(run)
    assert found.perfect, found.differences
