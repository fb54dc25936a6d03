"""ELF cores as ``/proc/vmcore`` offers them and ``makedumpfile -E`` filters them (elf(5))."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.filter import NOTHING, Filter, zero_pages
from mmdump_snapshots.writer.memory import CHUNK, PhysicalMemory
from mmdump_snapshots.writer.sink import Sink, is_zero

__all__ = ["Layout", "core_notes", "elf_note", "prstatus", "write_elf"]

#: Parts of a dump file by name, as [start, end) of bytes.
Layout = dict[str, tuple[tuple[int, int], ...]]

ET_CORE = 4
MACHINES = {"x86_64": 62, "aarch64": 183}
PT_LOAD = 1
PT_NOTE = 4
PN_XNUM = 0xFFFF
PF_RWX = 7
NT_PRSTATUS = 1
EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
#: makedumpfile leaves out excluded pages of an ELF core only from this many in a row on: each costs a header.
PFN_EXCLUDED = 256
ALIGN = 4096

#: Registers of struct user_regs_struct (x86-64) and struct user_pt_regs (arm64), in order; 8 bytes each.
REGISTERS = {
    "x86_64": (
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
        "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
    ),
    "aarch64": (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate"),
}  # fmt: skip
#: struct elf_prstatus up to pr_reg: signal, times and ids; pr_pid is at 32.
PRSTATUS_HEAD = 112
PRSTATUS_PID = 32


@dataclass(frozen=True)
class _Segment:
    """A PT_LOAD: of [start, end) the bytes up to ``stored`` are in the file."""

    virt: int
    start: int
    stored: int
    end: int
    offset: int


def elf_note(name: bytes, kind: int, description: bytes) -> bytes:
    """An ELF note: name and description padded to 4 bytes."""
    raw = struct.pack("<III", len(name) + 1, len(description), kind)
    raw += (name + b"\0").ljust(len(name) + 4 & ~3, b"\0")
    return raw + description.ljust(len(description) + 3 & ~3, b"\0")


def prstatus(arch: str, pid: int = 0, registers: Mapping[str, int] | None = None) -> bytes:
    """What NT_PRSTATUS says of a CPU: struct elf_prstatus, 336 bytes on x86-64, 392 on arm64.

    :param registers: By name, see :data:`REGISTERS`; 0 where not given.
    """
    names = REGISTERS[arch]
    given = registers or {}
    if unknown := given.keys() - set(names):
        raise ValueError(f"{arch} has no registers {sorted(unknown)}")
    raw = bytearray(PRSTATUS_HEAD)
    struct.pack_into("<i", raw, PRSTATUS_PID, pid)
    raw += struct.pack(f"<{len(names)}Q", *(given.get(name, 0) for name in names))
    return bytes(raw + bytes(8))  # pr_fpvalid, padding


def core_notes(cpus: Sequence[bytes], vmcoreinfo: bytes) -> bytes:
    """The notes of a kernel's core: NT_PRSTATUS per CPU, then VMCOREINFO."""
    notes = b"".join(elf_note(b"CORE", NT_PRSTATUS, cpu) for cpu in cpus)
    return notes + elf_note(b"VMCOREINFO", 0, vmcoreinfo)


def write_elf(
    sink: Sink,
    memory: PhysicalMemory,
    space: AddressSpace,
    notes: bytes,
    *,
    image: tuple[int, int] | None = None,
    filtered: Filter = NOTHING,
) -> Layout:
    """Write an ELF core.

    What was left out by the filter is beyond ``p_filesz``: it reads as zeros, as from ``makedumpfile -E``.

    :param notes: See :func:`core_notes`.
    :param image: Physical (start, end) of the kernel image, to have a segment of its own at the addresses it
        runs at, before those of the direct map.
    """
    segments = _segments(memory, space, filtered)
    loads = _alias(segments, space, image) if image else []
    count = 1 + len(loads) + len(segments)
    extended = count >= PN_XNUM
    section = EHDR.size + count * PHDR.size if extended else 0
    notes_at = EHDR.size + count * PHDR.size + (SHDR.size if extended else 0)
    data_at = -(-(notes_at + len(notes)) // ALIGN) * ALIGN
    headers = bytearray(
        EHDR.pack(
            b"\x7fELF\2\1\1", ET_CORE, MACHINES[space.arch], 1, 0, EHDR.size, section, 0, EHDR.size,
            PHDR.size, PN_XNUM if extended else count, SHDR.size if extended else 0, int(extended), 0,
        )
    )  # fmt: skip
    headers += PHDR.pack(PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    headers += b"".join(
        PHDR.pack(
            PT_LOAD,
            PF_RWX,
            data_at + load.offset,
            load.virt,
            load.start,
            load.stored - load.start,
            load.end - load.start,
            0,
        )
        for load in (*loads, *segments)
    )
    if extended:
        headers += SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0)
    sink.write_at(0, bytes(headers))
    sink.write_at(notes_at, notes)
    size = data_at
    for segment in segments:
        where = data_at + segment.offset - segment.start
        size = max(size, where + segment.stored)
        if not sink.sparse:
            for phys in range(segment.start, segment.stored, CHUNK):
                sink.write_at(where + phys, memory.array(phys, min(CHUNK, segment.stored - phys)))
            continue
        for phys, data in memory.extents(segment.start, segment.stored):
            if not is_zero(data):
                sink.write_at(where + phys, data)
    sink.finish(size)
    return {
        "header": ((0, EHDR.size),),
        "program headers": ((EHDR.size, notes_at),),
        "notes": ((notes_at, notes_at + len(notes)),),
        "data": ((data_at, size),),
    }


def _segments(memory: PhysicalMemory, space: AddressSpace, filtered: Filter) -> list[_Segment]:
    """The segments of the direct map: one per range of RAM, more where pages are left out."""
    segments = []
    offset = 0
    for start, end in memory.ram:
        for first, stored, last in _runs(memory, space.page_shift, filtered, start, end):
            segments.append(_Segment(space.direct(first), first, stored, last, offset))
            offset += -(-(stored - first) // ALIGN) * ALIGN
    return segments


def _runs(
    memory: PhysicalMemory, page_shift: int, filtered: Filter, start: int, end: int
) -> list[tuple[int, int, int]]:
    """(start, end of what is kept, end) of the parts of a range: kept bytes, then pages left out."""
    if not filtered.level:
        return [(start, end, end)]
    page = 1 << page_shift
    first, last = -(-start // page), end // page
    out = filtered.pages(first, last)
    if filtered.level & 1:
        out = out | zero_pages(memory, page_shift, first, last)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], out, [False])).astype(np.int8))).reshape(-1, 2)
    long = edges[edges[:, 1] - edges[:, 0] >= PFN_EXCLUDED] + first
    runs = []
    position = start
    for low, high in (long << page_shift).tolist():
        runs.append((position, low, high))
        position = high
    if position < end:
        runs.append((position, end, end))
    return runs


def _alias(segments: Sequence[_Segment], space: AddressSpace, image: tuple[int, int]) -> list[_Segment]:
    """The parts of segments that the kernel image is in, at the image's addresses."""
    shift = space.kernel(space.text) - space.text_phys
    found = []
    for segment in segments:
        start, end = max(segment.start, image[0]), min(segment.end, image[1])
        if start < end:
            stored = min(max(segment.stored, start), end)
            found.append(_Segment(start + shift, start, stored, end, segment.offset + start - segment.start))
    return found
