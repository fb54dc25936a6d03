"""``mmdump check`` is silent on every real machine that the test bed dumped."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmdump_page_owner
import mmdump_pages
from mmdump.checking import CheckRun
from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.scan import run_one
from mmdump.target import open_target
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_no_invariant_is_broken(run: Path, dump: Path) -> None:
    clients = load_plugins(disabled=["*"]).page_ext_clients()
    checks = [check() for check in (*mmdump_pages.mmdump_checks(), *mmdump_page_owner.mmdump_checks())]
    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        result = run_one(Kernel(target, clients), CheckRun(checks))
    assert result.tables["violations"].frame.rows() == []
    assert not result.incomplete
    assert result.summary[0].startswith("All of ")
