"""The last words of the test bed's kernels: those that were made to panic say so, and the others do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdump.kernel.log import read_log
from mmdump.kernel.machine import read_last_words
from mmdump.target import open_target
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_a_kernel_that_panicked_says_so(run: Path, dump: Path) -> None:
    from drgn.helpers.linux.printk import get_printk_records

    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        words = read_last_words(target)
        log = [(each.nsec, each.text) for each in read_log(target)]
        theirs = [(each.timestamp, each.text) for each in get_printk_records(target.prog)]
    if run.name.endswith("-kexec"):
        assert words.panic == "Kernel panic - not syncing: sysrq triggered crash"
    else:
        assert words.panic is None
    assert log[::-1] == theirs
