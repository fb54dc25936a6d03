"""An image in memory: mmdump's decoders, and what only the writer knows."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.plugins import load_plugins
from mmdump.scan import Ranges, run_one
from mmdump.target import ReadStatus, open_target
from mmdump_snapshots.kernels import profile, profiles
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.truth_owner import owner_truth
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.writer.image import build
from tests.snapshots.machines import PROFILES, busy, busy_machine


@pytest.fixture(scope="module")
def plugins():
    return load_plugins(disabled=["*"])


def kernel_of(image, plugins):
    return Kernel(image.target(), plugins.page_ext_clients())


@pytest.mark.parametrize("name", PROFILES)
def test_mmdump_decodes_the_columns_that_were_written(name, plugins):
    machine, image = busy(name)
    kernel, pages = kernel_of(image, plugins), machine.pages
    for start, end in kernel.memmap.chunks():
        found = kernel.pages(start, end)
        inside = np.zeros(len(found), bool)
        for low, high in machine.ram:
            inside[max(low - start, 0) : max(high - start, 0)] = True
        rows = np.flatnonzero(inside)
        pfn = rows + start
        assert np.array_equal(found.refcount[rows], pages.refcount[pfn])
        assert np.array_equal(found.head_pfn[rows], pfn - pages.tail[pfn])
        assert np.array_equal(found.is_buddy[rows], pages.type[pfn] == PageType.BUDDY)
        heads = pages.flags[pfn] & np.uint32(PageFlag.HEAD) != 0
        assert np.array_equal(found.is_head[rows], heads)
        assert np.array_equal(found.folio_order[rows], np.where(heads, pages.order[pfn], 0))
        buddy = pages.type[pfn] == PageType.BUDDY
        assert np.array_equal(found.buddy_order[rows], np.where(buddy, pages.order[pfn], 0))
        for flag in (PageFlag.RESERVED, PageFlag.LRU, PageFlag.UPTODATE):
            name_ = f"PG_{flag.name.lower()}"
            # The order of a folio shares a word with the flags of its first tail (6.6).
            plain = pages.tail[pfn] != 1
            theirs = pages.flags[pfn[plain]] & np.uint32(flag) != 0
            assert np.array_equal(found.has_flag(name_)[rows[plain]], theirs)
        blocks = machine.migratetype[pfn >> machine.era.pageblock_order]
        # Android numbers them otherwise.
        numbers = profile(name).types.enumerators("enum migratetype")
        ours = np.array([numbers[f"MIGRATE_{each.name}"] for each in Migratetype])
        assert np.array_equal(found.migratetype[rows], ours[blocks])


@pytest.mark.parametrize("name", PROFILES)
def test_pages_outside_memory_are_reserved(name, plugins):
    machine, image = busy(name)
    kernel = kernel_of(image, plugins)
    for start, end in kernel.memmap.chunks():
        found = kernel.pages(start, end, blocks=False)
        outside = np.ones(len(found), bool)
        for low, high in machine.ram:
            outside[max(low - start, 0) : max(high - start, 0)] = False
        assert found.has_flag("PG_reserved")[outside].all()
        assert (found.refcount[outside] == 1).all()


@pytest.mark.parametrize("name", PROFILES)
def test_what_is_left_of_the_last_section_is_of_the_last_zone(name, plugins):
    """Since 5.12; before, of the first zone of the first node."""
    kernel = profile(name)
    shift = kernel.page_shift - 12
    machine = Machine(kernel.era, arch=kernel.arch, memory=200 << 20 << shift, nodes=2)
    decoded = kernel_of(build(machine, kernel, kaslr=2), plugins)
    end = machine.ram[-1][1]
    pages = decoded.pages(end, decoded.memmap.end_pfn)
    assert len(pages)
    expected = machine.zones[-1 if kernel.version >= (5, 12) else 0]
    assert set(pages.node.tolist()) == {expected.node}
    index = {zone.index for zone in decoded.zones if (zone.node, zone.name) == (expected.node, expected.name)}
    assert set(pages.zone.tolist()) == index
    assert pages.has_flag("PG_reserved").all()


@pytest.mark.parametrize("name", PROFILES)
def test_owners_are_summed_as_the_machine_has_them(name, plugins):
    machine, image = busy(name)
    result = run_one(kernel_of(image, plugins), plugins.analyses()["page-owner"]())
    groups = result.tables["groups"].frame
    expected = {handle: each.pages for handle, each in owner_truth(machine).by_stack.items()}
    mask = (1 << sum(machine.era.depot_handle_bits[:3])) - 1
    assert {int(row["stack_id"]): row["pages"] for row in groups.iter_rows(named=True)} == {
        handle & mask: count for handle, count in expected.items()
    }
    for row in groups.iter_rows(named=True):
        frames = machine.stack_depot.fetch(next(h for h in expected if h & mask == int(row["stack_id"])))
        assert [frame.partition("+")[0] for frame in row["frames"]] == [f.partition("+")[0] for f in frames]


@pytest.mark.parametrize("name", ["4.19", "5.15", "6.1", "6.12", "7.1"])
def test_zones_and_cma_areas_are_found(name, plugins):
    machine, image = busy(name)
    kernel = kernel_of(image, plugins)
    assert [(zone.name, zone.start_pfn, zone.present) for zone in kernel.zones] == [
        (zone.name, zone.start_pfn, zone.present) for zone in machine.zones
    ]
    assert [(area.name, area.base_pfn, area.count) for area in kernel.cma_areas] == [
        (area.name, area.base_pfn, area.count) for area in machine.cma
    ]


@pytest.mark.parametrize("name", ["5.4", "6.12", "6.12-arm64"])
def test_nodes_are_told_apart(name, plugins):
    kernel = profile(name)
    machine = Machine(kernel.era, arch=kernel.arch, memory=1 << 30, nodes=2)
    decoded = kernel_of(build(machine, kernel), plugins)
    assert {zone.node for zone in decoded.zones} == {0, 1}
    for zone in machine.zones:
        row = decoded.pages(zone.start_pfn, min(zone.end_pfn, (zone.start_pfn | 0xFFFF) + 1), blocks=False)
        assert row.node[0] == zone.node


def test_a_machine_without_page_ext_has_none(plugins):
    machine = Machine(profile("6.12").era, boot=Boot(page_owner=False, page_pinner=False))
    kernel = kernel_of(build(machine, profile("6.12")), plugins)
    assert kernel.page_ext.stride == 0
    assert not kernel.memmap.sections.page_ext.any()


def test_kaslr_moves_everything_and_changes_nothing(plugins):
    machine = busy_machine(profile("6.12"))
    found = []
    for seed in (None, 1, 2):
        image = build(machine, profile("6.12"), kaslr=seed)
        kernel = kernel_of(image, plugins)
        refcounts = np.concatenate([kernel.pages(*chunk).refcount for chunk in kernel.memmap.chunks()])
        found.append((kernel.memmap.vmemmap, image.addresses.kernel_offset, refcounts))
    assert len({each[0] for each in found}) == len({each[1] for each in found}) == 3
    assert all(np.array_equal(each[2], found[0][2]) for each in found)


def test_a_page_owner_file_can_be_printed(plugins):
    kernel = kernel_of(busy("6.12")[1], plugins)
    file = find_kernel_file(plugins.kernel_files(), "page_owner")
    text = b"".join(file.read(kernel, Ranges(kernel, ext=True))).decode()
    assert text.count("Page allocated via order") == text.count("\nPFN 0x")
    assert "pipe_write+0x" in text


def test_files_are_written_beside_each_other(tmp_path):
    image = busy("6.12")[1]
    vmcore = image.write(tmp_path / "new" / "directory")
    assert vmcore.name == "vmcore"
    assert (vmcore.parent / "vmlinux").read_bytes() == image.vmlinux.elf
    json.loads((vmcore.parent / "truth.json").read_text())


def test_an_image_of_256_mib_is_made_in_no_time():
    machine = busy_machine(profiles()["6.12"])
    build(machine, profile("6.12")).program()
    started = time.process_time()
    build(machine, profile("6.12")).program()
    # 60 ms on an idle machine; tests run on any.
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("container", ["elf", "kdump"])
def test_a_filtered_dump_still_has_the_page_array(container, tmp_path, plugins):
    machine, image = busy("6.12")
    with open_target(
        image.write(tmp_path, container, filter_level=31), symbols=[tmp_path / "vmlinux"]
    ) as target:
        kernel = Kernel(target, plugins.page_ext_clients())
        free = 0
        for chunk in kernel.memmap.chunks():
            pages = kernel.pages(*chunk)
            assert pages.readable.all()
            free += int((1 << pages.buddy_order[pages.is_buddy].astype(int)).sum())
        assert free == sum(zone.free_pages for zone in machine.zones)
        first = machine.zones[0].free_area[-1].free_list[1].first()
        assert (target.reader.read_physical(first << 12, 4096).status != ReadStatus.READ).all()
