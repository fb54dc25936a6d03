"""Address spaces and page tables: where a kernel has things, and that a walk finds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.memory import Bump, PhysicalMemory
from mmdump_snapshots.writer.pagetables import PageTables

GIB = 1 << 30
MIB = 1 << 20


def test_x86_64_without_kaslr_is_where_the_documentation_says():
    space = AddressSpace.x86_64()
    assert space.direct(0x1000) == 0xFFFF888000001000
    assert space.vmemmap == 0xFFFFEA0000000000
    assert space.page(1) == 0xFFFFEA0000000040
    assert space.phys_base == 0
    assert space.kernel_phys(0xFFFFFFFF81000000) == 16 * MIB


def test_a_real_kernels_bases_can_be_given():
    """Addresses from VMCOREINFO of 6.12 on x86-64: _stext, KERNELOFFSET, phys_base, vmemmap."""
    space = AddressSpace.x86_64(
        text_phys=0x16800000,
        kernel_offset=0x8200000,
        page_offset=0xFF41FACFC0000000,
        vmemmap=0xFFBF58A900000000,
        levels=5,
    )
    assert space.kernel(0xFFFFFFFF81000000) == 0xFFFFFFFF89200000
    assert space.phys_base == 224395264
    assert space.max_physmem_bits == 52


@given(st.integers(0, 1 << 32), st.integers(1 << 28, 1 << 40))
def test_x86_64_kaslr_keeps_the_regions_apart_and_in_order(seed, ram_end):
    space = AddressSpace.x86_64(seed=seed, ram_end=ram_end)
    assert space.page_offset >= 0xFFFF888000000000
    assert space.page_offset + ram_end <= space.vmalloc
    assert space.vmalloc + (32 << 40) <= space.vmemmap
    assert space.vmemmap + (ram_end >> 12) * 64 <= 0xFFFFFE0000000000
    assert not (space.page_offset | space.vmalloc | space.vmemmap) & (GIB - 1)
    assert not space.kernel_offset & (2 * MIB - 1)
    assert space.kernel(space.text) + 64 * MIB <= 0xFFFFFFFFC0000000
    assert space == AddressSpace.x86_64(seed=seed, ram_end=ram_end)
    # phys_base is how the kernel's own addresses lead to where it was loaded.
    assert space.kernel(space.text) - 0xFFFFFFFF80000000 + space.phys_base == space.text_phys


def test_arm64_is_where_real_kernels_are():
    """VMCOREINFO of 6.12 on arm64 with RAM from 1 GiB: vmemmap, kimage_voffset by KERNELOFFSET."""
    space = AddressSpace.aarch64(text_phys=0x40200000, kernel_offset=0x5AA947C00000)
    assert space.vmemmap == 0xFFFFFDFFBF000000
    assert space.vmemmap_start == 0xFFFFFDFFC0000000
    assert space.direct(0x5FFCEE80) == 0xFFFF00001FFCEE80
    assert AddressSpace.aarch64(page_shift=14).vmemmap == 0xFFFFFF7FBFC00000
    assert space.kernel(space.text) == 0xFFFFDAA9C7C00000
    assert space.kimage_voffset == 0xFFFFDAA9C7C00000 - 0x40200000


@given(st.integers(0, 1 << 32), st.sampled_from([12, 14]))
def test_arm64_kaslr_keeps_the_image_within_vmalloc(seed, page_shift):
    space = AddressSpace.aarch64(seed=seed, page_shift=page_shift)
    assert space.vmalloc < space.kernel(space.text) < space.vmemmap_start - GIB
    assert not space.kernel_offset & (2 * MIB - 1)


SPACES = {
    "x86_64": AddressSpace.x86_64(),
    "x86_64-5level": AddressSpace.x86_64(levels=5),
    "arm64": AddressSpace.aarch64(ram_start=0),
    "arm64-16k": AddressSpace.aarch64(page_shift=14, ram_start=0),
}
#: The memory of the tables themselves.
TABLES = 16 * MIB


def tables(space):
    return PageTables(PhysicalMemory([(0, TABLES)]), space, Bump(0, TABLES))


@pytest.mark.parametrize("name", SPACES)
def test_large_pages_are_used_where_they_fit(name):
    space = SPACES[name]
    mapped = tables(space)
    mapped.map(space.direct(0), 0, 4 * GIB)
    # Entries of 1 GiB take one table below the top; those of 32 MiB one per 64 GiB.
    assert len(mapped.tables) == space.levels - (1 if name == "arm64-16k" else 2)
    assert mapped.translate(space.direct(3 * GIB + 12345)) == 3 * GIB + 12345
    assert mapped.translate(space.direct(64 * GIB)) is None


@pytest.mark.parametrize("name", SPACES)
def test_a_large_page_is_split_where_one_of_its_pages_moves(name):
    space = SPACES[name]
    mapped = tables(space)
    mapped.map(space.direct(0), 0, 2 * GIB)
    page = space.page_size
    mapped.map(space.direct(0x4000000), 0x7000000, page)
    assert mapped.translate(space.direct(0x4000000 + 5)) == 0x7000005
    assert mapped.translate(space.direct(0x4000000 - 1)) == 0x4000000 - 1
    assert mapped.translate(space.direct(0x4000000 + page)) == 0x4000000 + page
    assert mapped.translate(space.direct(2 * GIB - 1)) == 2 * GIB - 1


def test_only_whole_pages_are_mapped():
    with pytest.raises(ValueError, match="whole pages"):
        tables(SPACES["arm64-16k"]).map(0xFFFF800000001000, 0, 0x4000)


mapping = st.tuples(st.integers(0, 1 << 19), st.integers(0, 1 << 19), st.integers(1, 2000))


@given(st.sampled_from(sorted(SPACES)), st.lists(mapping, max_size=8))
def test_the_last_mapping_of_an_address_counts(name, mappings):
    space = SPACES[name]
    mapped = tables(space)
    base, page = space.direct(0), space.page_size
    expected: dict[int, int] = {}
    for virt, phys, count in mappings:
        mapped.map(base + virt * page, phys * page, count * page)
        expected.update((virt + number, phys + number) for number in range(count))
    for virt in {v + d for v, _, n in mappings for d in (-1, 0, 1, n // 2, n - 1, n) if v + d >= 0}:
        phys = expected.get(virt)
        assert mapped.translate(base + virt * page + 7) == (None if phys is None else phys * page + 7)
