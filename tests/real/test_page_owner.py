"""Allocations of the real vmcore, against /sys/kernel/debug/page_owner read a moment before."""

from __future__ import annotations

from collections import Counter

from mmdump.kernel import Kernel
from mmdump.plugins import Plugins
from mmdump.scan import run_one
from tests.real import truth


def test_allocations_of_each_stack_are_those_the_kernel_listed(
    kernel: Kernel, plugins: Plugins, owner_text: dict[int, truth.Record]
) -> None:
    result = run_one(kernel, plugins.analyses()["page-owner"]())
    groups = result.tables["groups"].frame
    ours = Counter()
    for frames, allocations in groups.select("frames", "allocations").iter_rows():
        ours[tuple(frames)] += allocations
    theirs = Counter(record.stack for record in owner_text.values())
    # Between the reading and the dump a few pages moved; most stacks did not change at all.
    moved = sum(abs(ours[stack] - theirs[stack]) for stack in ours | theirs)
    assert moved <= 0.005 * len(owner_text)
    same = sum(ours[stack] == theirs[stack] for stack in ours | theirs)
    assert same >= 0.9 * len(ours | theirs)
