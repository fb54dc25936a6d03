"""Pageblocks of the real vmcore, against /proc/pagetypeinfo read a moment before."""

from __future__ import annotations

import re

from mmdump.kernel import Kernel
from mmdump.plugins import Plugins
from mmdump.scan import Ranges, run_one
from mmdump_page_owner import mixed_blocks
from tests.conftest import Sample


def block_counts(text: str, title: str) -> dict[tuple[int, str], dict[str, int]]:
    """A table of /proc/pagetypeinfo: counts by migratetype, by node and zone."""
    lines = text[text.index(title) + len(title) :].splitlines()
    names = lines[0].split()
    found = {}
    for line in lines[1:]:
        row = re.match(r"Node +(\d+), zone +(\S+) +(.+)", line)
        if row is None:
            break
        found[int(row[1]), row[2]] = dict(zip(names, map(int, row[3].split()), strict=True))
    return found


def test_mixed_blocks_are_those_the_kernel_counted(kernel: Kernel, sample: Sample) -> None:
    theirs = block_counts(sample.truth("pagetypeinfo.txt").decode(), "Number of mixed blocks")
    names = {(zone.node, zone.index): zone.name for zone in kernel.zones}
    ours = {
        (node, names[node, index]): dict(zip(kernel.pageblocks.names, counts.tolist(), strict=True))
        for (node, index), counts in mixed_blocks(kernel, Ranges(kernel, ext=True)).items()
    }
    assert ours == {zone: counts for zone, counts in theirs.items() if any(counts.values())}
    assert ours[0, "DMA32"]["Movable"] == 18


def test_blocks_by_type_are_those_the_kernel_counted(
    kernel: Kernel, plugins: Plugins, sample: Sample
) -> None:
    theirs = block_counts(sample.truth("pagetypeinfo.txt").decode(), "Number of blocks type")
    result = run_one(kernel, plugins.analyses()["pageblocks"]())
    ours = result.tables["types"].frame.select("node", "zone", "migratetype", "blocks").rows()
    assert sorted(ours) == sorted(
        (*zone, kind, count) for zone, counts in theirs.items() for kind, count in counts.items() if count
    )
    types, blocks = result.tables["types"].frame, result.tables["blocks"].frame
    for column in ("pages", "free", "allocated", "polluting", "other"):
        assert blocks[column].sum() == types[column].sum()
    assert (blocks["free"] + blocks["allocated"] + blocks["other"]).equals(blocks["pages"])
