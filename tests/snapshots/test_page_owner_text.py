"""/sys/kernel/debug/page_owner and show_stacks of machines that are known, in the text of each kernel's era.

What is expected is put together here, from what happened on the machine and from what each release printed.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.plugins import load_plugins
from mmdump.scan import Ranges
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.model.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from mmdump_snapshots.model.pages import PageFlag
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import build
from tests.snapshots.machines import PROFILES, busy

[CMA_FAILURE] = [scenario for scenario in SCENARIOS if scenario.name == "cma-failure"]
COUNTED = [name for name in PROFILES if profile(name).version >= (6, 9)]

VIA = "Page allocated via order {order}, mask {mask}"
#: First line of a record, by the release that began to print it so.
ALLOCATED = {
    (4, 19): VIA,
    (5, 11): VIA + ", pid {pid}, ts {ts} ns",
    (5, 13): VIA + ", pid {pid}, ts {ts} ns, free_ts {free_ts} ns",
    (5, 18): VIA + ", pid {pid}, tgid {tgid} ({comm}), ts {ts} ns, free_ts {free_ts} ns",
    (6, 7): VIA + ", pid {pid}, tgid {tgid} ({comm}), ts {ts} ns",
}
#: The second.
PLACE = {
    (4, 19): "PFN {pfn} type {type} Block {block} type {block_type} Flags {flags}",
    (6, 5): "PFN {pfn:#x} type {type} Block {block} type {block_type} Flags {flags}",
}
#: What is in the brackets of the flags: names alone, and since 5.12 node and zone.
FLAGS = {(4, 19): "{names}", (5, 12): "{names}node={node}|zone={zone}"}
MOVABLE, COMP = GFP_HIGHUSER_MOVABLE, Gfp.COMP
#: page_owner's own allocations, and the depot's.
NESTED = GFP_KERNEL | Gfp.NOWARN | Gfp.NORETRY | Gfp.NOMEMALLOC
#: kvmalloc() of more than a page, as Android's page pinner does.
LARGE = GFP_KERNEL | Gfp.NOWARN | Gfp.NORETRY | Gfp.COMP
#: ``%#x(%pGg)`` of the masks that are in use. GFP_HIGHUSER_MOVABLE had a bit more in 5.14 to 5.17, which
#: these allocations have not.
MASKS = {
    (4, 19): {
        GFP_KERNEL: "0x6000c0(GFP_KERNEL)",
        GFP_KERNEL | COMP: "0x6040c0(GFP_KERNEL|__GFP_COMP)",
        MOVABLE: "0x6200ca(GFP_HIGHUSER_MOVABLE)",
        MOVABLE | COMP: "0x6240ca(GFP_HIGHUSER_MOVABLE|__GFP_COMP)",
    },
    (5, 0): {
        GFP_KERNEL: "0xcc0(GFP_KERNEL)",
        GFP_KERNEL | COMP: "0x40cc0(GFP_KERNEL|__GFP_COMP)",
        MOVABLE: "0x100cca(GFP_HIGHUSER_MOVABLE)",
        MOVABLE | COMP: "0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP)",
        LARGE: "0x52cc0(GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP)",
    },
    (5, 14): {
        GFP_KERNEL: "0xcc0(GFP_KERNEL)",
        GFP_KERNEL | COMP: "0x40cc0(GFP_KERNEL|__GFP_COMP)",
        MOVABLE: "0x100cca(GFP_HIGHUSER|__GFP_MOVABLE)",
        MOVABLE | COMP: "0x140cca(GFP_HIGHUSER|__GFP_COMP|__GFP_MOVABLE)",
    },
    (5, 18): {
        GFP_KERNEL: "0xcc0(GFP_KERNEL)",
        GFP_KERNEL | COMP: "0x40cc0(GFP_KERNEL|__GFP_COMP)",
        MOVABLE: "0x100cca(GFP_HIGHUSER_MOVABLE)",
        MOVABLE | COMP: "0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP)",
        LARGE: "0x52cc0(GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP)",
        NESTED: "0x92cc0(GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_NOMEMALLOC)",
    },
}
TYPES = {Migratetype.UNMOVABLE: "Unmovable", Migratetype.MOVABLE: "Movable", Migratetype.CMA: "CMA"}


def of_era(forms, name):
    """The newest form that this kernel is not older than."""
    return forms[max(since for since in forms if since <= profile(name).version)]


def file_of(image, name: str) -> str:
    plugins = load_plugins(disabled=["*"])
    kernel = Kernel(image.target(), plugins.page_ext_clients())
    found = find_kernel_file(plugins.kernel_files(), name)
    return b"".join(found.read(kernel, Ranges(kernel, ext=found.ext))).decode()


def records(text: str) -> list[list[str]]:
    """The lines of each record; an empty line ends every one."""
    assert text.endswith("\n\n")
    return [record.split("\n") for record in text[:-2].split("\n\n")]


def same_stack(lines: list[str], frames: tuple[str, ...]) -> bool:
    """Whether these are the lines of a call chain: a blank, the function, offset and size in hexadecimal."""
    found = [re.fullmatch(r" (\w+)\+0x[0-9a-f]+/0x[0-9a-f]+", line) for line in lines]
    return [match and match[1] for match in found] == [frame.partition("+")[0] for frame in frames]


@cache
def failed_cma(name: str):
    """A machine that moved pages out of a CMA area, and its image."""
    machine = CMA_FAILURE.play(profile(name), seed=1)
    return machine, build(machine, profile(name), kaslr=1)


@pytest.mark.parametrize("name", PROFILES)
def test_every_allocation_is_printed_once_in_the_words_of_the_release(name):
    machine, image = busy(name)
    truth = Truth.of(machine).owners
    of, found = truth.allocated, records(file_of(image, "page_owner"))
    rows = np.flatnonzero(of.first)
    # Pages that lay on a per-CPU list when page_owner began have a record of that, also where they were
    # given back since; free blocks are stepped over.
    free = {pfn for pfn in of.pfn[rows].tolist() if machine.buddy.block_of(pfn) is not None}
    rows = [row for row in rows.tolist() if int(of.pfn[row]) not in free]
    assert len(found) == len(rows) > 200
    seen = set()
    for row, lines in zip(rows, found, strict=True):
        pfn, values = int(of.pfn[row]), {member: of[member][row] for member in of.members}
        gfp = int(values["gfp"])
        mask = "0x0()" if not gfp else of_era(MASKS, name)[Gfp(gfp)]
        values |= {"comm": truth.comms[int(values["comm"])], "mask": mask}
        assert lines[0] == of_era(ALLOCATED, name).format(**values)
        flags = lines[1].rpartition(" ")[2]
        zone = machine.zone_of(pfn)
        head = "head|" if machine.pages.flags[pfn] & np.uint32(PageFlag.HEAD) else ""
        inside = of_era(FLAGS, name).format(names=head, node=zone.node, zone=zone.index).removesuffix("|")
        # What was allocated early has a record on tails too; since 6.6 a first tail's flags hold the order.
        if machine.pages.tail[pfn] != 1:
            assert re.fullmatch(rf"0x[0-9a-f]+\({re.escape(inside)}\)", flags), flags
        assert lines[1] == of_era(PLACE, name).format(
            pfn=pfn,
            type="Movable" if gfp & Gfp.MOVABLE else "Unmovable",
            block=pfn >> machine.era.pageblock_order,
            block_type=TYPES[machine.pageblock_migratetype(pfn)],
            flags=flags,
        )
        assert same_stack(lines[2:], truth.stacks[int(values["handle"])])
        seen.add((gfp, int(values["order"])))
    # With a mask of nothing what was there before page_owner; blocks, and compound pages.
    masks = {gfp for gfp, _ in seen}
    assert {0, GFP_KERNEL, MOVABLE, GFP_KERNEL | COMP, MOVABLE | COMP} == masks - {NESTED, LARGE}
    assert (LARGE in masks) == (profile(name).pinner >= Pinner.B1)
    assert {order for _, order in seen} >= {0, 1, 2, 3, 5, 9}


@pytest.mark.parametrize("name", PROFILES)
def test_a_page_that_moved_out_of_an_area_says_why(name):
    machine, image = failed_cma(name)
    of, found = Truth.of(machine).owners.allocated, records(file_of(image, "page_owner"))
    reason = "contig_range" if profile(name).version >= (5, 15) else "cma"
    moved = of.first & (of["migrate_reason"] != 0)
    said = [lines for lines in found if lines[-1].startswith("Page has been migrated")]
    assert len(said) == np.count_nonzero(moved) > 10
    assert {lines[-1] for lines in said} == {f"Page has been migrated, last migrate reason: {reason}"}
    base = 16 if profile(name).version >= (6, 5) else 10
    assert [int(lines[1].split()[1], base) for lines in said] == of.pfn[moved].tolist()


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("machine_of", [busy, failed_cma], ids=["busy", "cma-failure"])
def test_stacks_are_shown_in_the_order_of_the_list_with_the_pages_that_they_have(name, machine_of):
    machine, image = machine_of(name)
    truth = Truth.of(machine).owners
    shown = {handle: pages for handle, pages in truth.listed.items() if pages >= 1}
    found = records(file_of(image, "show_stacks"))
    assert [lines[-1] for lines in found] == [f"nr_base_pages: {pages}" for pages in shown.values()]
    for lines, handle in zip(found, shown, strict=True):
        assert same_stack(lines[:-1], truth.stacks[handle])
    # What it counts is what the records say, but for what was there before it counted.
    early = truth.special["early_handle"]
    recorded = {handle: each.pages for handle, each in truth.by_stack.items() if handle != early}
    assert {handle: shown.get(handle, 0) for handle in recorded if handle in truth.listed} == {
        handle: pages for handle, pages in recorded.items() if handle in truth.listed
    }


@pytest.mark.parametrize("name", [name for name in PROFILES if name not in COUNTED])
def test_kernels_before_6_9_have_no_show_stacks(name):
    _, image = busy(name)
    plugins = load_plugins(disabled=["*"])
    kernel = Kernel(image.target(), plugins.page_ext_clients())
    why_not = find_kernel_file(plugins.kernel_files(), "show_stacks").why_not(kernel)
    assert "6.9 and newer do" in why_not
