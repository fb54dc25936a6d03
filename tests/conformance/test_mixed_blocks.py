"""Pageblocks of the test bed's dumps, and those that are mixed, as the kernel counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.scan import Ranges, run_one
from mmdump.target import open_target
from mmdump_buddy.pagetypeinfo import PAGETYPEINFO
from mmdump_page_owner import mixed_blocks, why_no_owner
from testbed.check import reading
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE
from tests.real.test_pageblocks import block_counts


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_mixed_blocks_are_those_the_kernel_counted(run: Path, dump: Path) -> None:
    if run.name.endswith("-kexec"):
        pytest.skip("a crashing kernel cannot be read again after its dump: nothing is known to stand still")
    readings = {each.decode() for each in reading(run, "/proc/pagetypeinfo")}
    title = "Number of mixed blocks"
    counts = [block_counts(text, title) for text in readings if title in text]
    with open_target(dump, symbols=[str(run / "vmlinux")]) as target:
        kernel = Kernel(target, load_plugins(disabled=["*"]).page_ext_clients())
        if not counts:
            assert why_no_owner(kernel) is not None
            pytest.skip("this kernel counts no mixed blocks")
        if any(each != counts[0] for each in counts):
            pytest.skip("the count did not stand still")
        names = {(zone.node, zone.index): zone.name for zone in kernel.zones}
        ours = {
            (node, names[node, index]): dict(zip(kernel.pageblocks.names, found.tolist(), strict=True))
            for (node, index), found in mixed_blocks(kernel, Ranges(kernel, ext=True)).items()
        }
    assert ours == {zone: found for zone, found in counts[0].items() if any(found.values())}


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_blocks_by_type_are_those_of_pagetypeinfo(run: Path, dump: Path) -> None:
    """Which is the kernel's own text (see test_free): a block has one zone, and what lies in none is none."""
    plugins = load_plugins(disabled=["*"])
    with open_target(dump, symbols=[str(run / "vmlinux")]) as target:
        kernel = Kernel(target, plugins.page_ext_clients())
        if why_no_owner(kernel) is not None:
            pytest.skip("this kernel has no page_owner")
        text = b"".join(PAGETYPEINFO.read(kernel, Ranges(kernel, ext=True))).decode()
        ours = run_one(kernel, plugins.analyses()["pageblocks"]()).tables["types"].frame
    theirs = block_counts(text, "Number of blocks type")
    assert sorted(ours.select("node", "zone", "migratetype", "blocks").rows()) == sorted(
        (*zone, kind, count) for zone, counts in theirs.items() for kind, count in counts.items() if count
    )
