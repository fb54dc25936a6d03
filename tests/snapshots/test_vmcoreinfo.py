"""VMCOREINFO: the same lines as the kernel's own."""

from __future__ import annotations

import pytest

from mmdump.target.vmcoreinfo import find_note
from mmdump_snapshots.kernels.profiles import profile
from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.vmcoreinfo import Facts, vmcoreinfo
from tests.snapshots import real


def real_lines(path):
    """The lines of VMCOREINFO in an ELF core: its notes come first."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    offset, size = (int.from_bytes(head[at : at + 8], "little") for at in (64 + 8, 64 + 32))
    return find_note(head[offset : offset + size], "<", b"VMCOREINFO").decode().splitlines()


def test_the_real_notes_are_made_again_from_the_real_types(sample):
    """VMCOREINFO of a 6.12 kernel, line by line, from its own debug info and symbols."""
    prog = real.opened(sample.elf, sample.vmlinux)
    lines = real_lines(sample.elf)
    entries = dict(line.split("=", 1) for line in lines)

    def symbol(name):
        try:
            return prog.symbol(name).address
        except LookupError:
            return None

    facts = Facts(
        entries["OSRELEASE"],
        (6, 12),
        real.RealTypes(prog),
        real.space_of(entries),
        symbol,
        int(entries["SYMBOL(mem_section)"], 16),
        entries["BUILD-ID"],
    )
    assert vmcoreinfo(facts).decode().splitlines() == lines


def entries_of(name):
    kernel = profile(name)
    if kernel.arch == "aarch64":
        space = AddressSpace.aarch64(page_shift=kernel.page_shift)
    else:
        space = AddressSpace.x86_64()
    symbols = {"swapper_pg_dir": space.kernel(space.text), "vmap_area_list": 1 << 63}
    facts = Facts(f"{name}.0", kernel.version, kernel.types, space, symbols.get, space.direct(0), "ab" * 20)
    text = vmcoreinfo(facts).decode()
    assert text.endswith("\n")
    assert len(text) < 4096
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize(
    ("name", "buddy"),
    [("4.19", -129), ("5.4", -129), ("5.15", -129), ("6.1", -129), ("6.6", -129), ("6.12", -268435456)],
)
def test_the_mapcount_of_free_pages_by_release(name, buddy):
    assert entries_of(name)["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"] == str(buddy)


def test_lines_come_and_go_with_releases():
    assert "BUILD-ID" not in entries_of("5.4")
    assert "BUILD-ID" in entries_of("5.10")
    assert "NUMBER(MAX_PHYSMEM_BITS)" not in entries_of("5.4")
    assert "NUMBER(PG_slab)" in entries_of("6.6")
    assert "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)" in entries_of("6.12")
    assert "SYMBOL(vmap_area_list)" in entries_of("6.6")
    assert "NUMBER(VMALLOC_START)" in entries_of("6.12")
    assert "OFFSET(page.compound_head)" in entries_of("6.18")
    assert "OFFSET(page.compound_info)" in entries_of("7.1")


def test_arm64_tells_its_addresses():
    entries = entries_of("6.12-arm64-16k")
    assert entries["PAGESIZE"] == "16384"
    assert entries["LENGTH(mem_section)"] == "4096"
    assert entries["LENGTH(zone.free_area)"] == "12"
    assert entries["NUMBER(VMEMMAP_START)"] == "0xffffff7fc0000000"
    assert entries["NUMBER(VMALLOC_END)"] == "0xffffff7fbf800000"
