"""The trace and the log of the test bed's kernels, on one clock: an allocation fails after it was tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdump.kernel import Kernel
from mmdump.target import open_target
from mmdump_cma.failures import read_failures
from mmdump_page_pinner import CLIENTS
from mmdump_trace import read_events
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE

pytestmark = [
    pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed"),
    pytest.mark.parametrize(("run", "dump"), DUMPS),
]


def test_the_log_says_that_an_allocation_failed_after_its_start_and_before_the_next_in_the_trace(
    run: Path, dump: Path
) -> None:
    """``cma_alloc()`` prints about when it finishes, by ``local_clock()``; the trace's clock is another."""
    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        kernel = Kernel(target, CLIENTS)
        logged = [each.nsec for each in read_failures(kernel)]
        found = read_events(kernel, ["cma:cma_alloc_start"])
    assert found.clock.to_log is not None
    starts = [time + found.clock.to_log for time in found.frame["time"].to_list()]
    if not logged or len(starts) < 2 or found.overrun:
        pytest.skip("the log, or the trace, no longer tells of the attempts")
    # The test bed asks for the whole area first, which has to fail.
    assert starts[0] < logged[0] < starts[1]
