"""The real vmcore, as the writer's own parts see it."""

from __future__ import annotations

from types import SimpleNamespace

import drgn
import numpy as np

from mmdump.target.dumpfile import inspect_dump
from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.memory import PhysicalMemory


class RealTypes:
    """A kernel's types from its debug info, asked as a profile's are."""

    def __init__(self, prog):
        self._prog = prog

    def _type(self, name):
        kind = self._prog.type(name)
        return kind.type if kind.kind == drgn.TypeKind.TYPEDEF else kind

    def sizeof(self, name):
        return drgn.sizeof(self._type(name))

    def member(self, name, path):
        kind = self._type(name)
        found = SimpleNamespace(size=drgn.sizeof(kind.member(path).type))
        return SimpleNamespace(offset=drgn.offsetof(kind, path), type=found)

    def has(self, name, path):
        return self._type(name).has_member(path)

    def constant(self, name):
        return self._prog.constant(name).value_()


def opened(dump, vmlinux):
    prog = drgn.Program()
    prog.set_core_dump(dump)
    prog.load_debug_info([vmlinux])
    return prog


def space_of(entries):
    """The address space that VMCOREINFO's entries tell of."""
    offset = int(entries["KERNELOFFSET"], 16)
    if "NUMBER(kimage_voffset)" in entries:
        text = 0xFFFF800080000000 + offset
        return AddressSpace.aarch64(
            page_shift=int(entries["PAGESIZE"]).bit_length() - 1,
            ram_start=int(entries["NUMBER(PHYS_OFFSET)"], 16),
            text_phys=text - int(entries["NUMBER(kimage_voffset)"], 16),
            kernel_offset=offset,
        )
    return AddressSpace.x86_64(
        text_phys=int(entries["NUMBER(phys_base)"]) + offset + 0x1000000,
        kernel_offset=offset,
        vmemmap=int(entries["SYMBOL(vmemmap)"], 16) if "SYMBOL(vmemmap)" in entries else None,
        vmalloc=int(entries.get("NUMBER(VMALLOC_START)", "0"), 16),
        levels=5 if entries["NUMBER(pgtable_l5_enabled)"] == "1" else 4,
    )


def read_sample(sample):
    """(memory, address space, types, physical address of the top page table) of the real vmcore."""
    prog = opened(sample.elf, sample.vmlinux)
    entries = inspect_dump(sample.elf).vmcoreinfo
    space = space_of(entries)
    raw = np.memmap(sample.elf, np.uint8, "r")
    count = int.from_bytes(raw[56:58].tobytes(), "little")
    headers = np.frombuffer(raw[64 : 64 + 56 * count].tobytes(), "<u8").reshape(count, 7)
    loads = headers[(headers[:, 0] & 0xFFFFFFFF) == 1]
    memory = PhysicalMemory([(int(load[3]), int(load[3] + load[5])) for load in loads])
    for load in loads:
        memory.write(int(load[3]), raw[int(load[1]) : int(load[1] + load[4])])
    link = int(entries["SYMBOL(swapper_pg_dir)"], 16) - space.kernel_offset
    return memory, space, RealTypes(prog), space.kernel_phys(link)
