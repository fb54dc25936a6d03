"""The trace and the log of the test bed's kernels, on one clock: an attempt fails before the log says so."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.target import open_target
from mmdump_cma.failures import read_failures
from mmdump_page_pinner import CLIENTS
from mmdump_page_pinner.witnesses import read_witnesses
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE

pytestmark = [
    pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed"),
    pytest.mark.parametrize(("run", "dump"), DUMPS),
]


def test_a_page_is_in_the_way_just_before_the_log_says_that_the_allocation_failed(
    run: Path, dump: Path
) -> None:
    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        kernel = Kernel(target, CLIENTS)
        logged = [each.nsec for each in read_failures(kernel)]
        seen = read_witnesses(kernel)
    failed = seen.frame.filter(pl.col("event") == "failure")["time"]
    if not logged or not len(failed) or seen.overrun:
        pytest.skip("the log, or the trace, tells of no failure")
    assert seen.related
    assert any(0 < nsec - int(failed[0]) < 1_000_000_000 for nsec in logged)
