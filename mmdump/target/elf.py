"""ELF cores: from /proc/vmcore, makedumpfile -E, QEMU's dump-guest-memory, virsh dump ... (elf(5))."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdump.errors import OpenError
from mmdump.target.coverage import PhysStatus, SegmentCoverage
from mmdump.target.overlay import overlay
from mmdump.target.source import ByteSource
from mmdump.target.vmcoreinfo import MAX_SIZE, notes, parse_vmcoreinfo

__all__ = ["ET_CORE", "MAGIC", "ElfCore", "parse_elf"]

MAGIC = b"\x7fELF"
ET_CORE = 4
PT_LOAD = 1
PT_NOTE = 4
PN_XNUM = 0xFFFF
NT_PRPSINFO = 3
NT_TASKSTRUCT = 4
#: The largest dumps have some 10^5 segments (makedumpfile splits them at excluded pages).
MAX_SEGMENTS = 1 << 20
#: One note per CPU, each less than a page.
MAX_NOTES_SIZE = 1 << 26
NO_ADDRESS = (1 << 64) - 1
#: The fields of Elf64_Phdr and Elf32_Phdr; type and flags have 4 bytes, the others an address's.
LAYOUT_64 = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
LAYOUT_32 = ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")


@dataclass(frozen=True)
class ElfCore:
    """What the headers of an ELF core say."""

    vmcoreinfo: dict[str, str]
    coverage: SegmentCoverage
    writer: str | None
    truncated: str | None


def parse_elf(source: ByteSource, name: str) -> ElfCore:
    """Read the headers and notes of an ELF core of a kernel.

    :param source: The file, which begins with :data:`MAGIC`.
    :param name: The file's name, for messages.
    :raises OpenError: not a core, not a kernel's core, or damaged headers
    """
    ident = source.pread(0, 16)
    if len(ident) < 16 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise OpenError(f"{name}: the ELF header is damaged or cut off.", "Copy the dump again.")
    order = "<" if ident[5] == 1 else ">"
    wide = ident[4] == 2
    header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    raw = source.pread(16, header.size)
    if len(raw) < header.size:
        raise OpenError(f"{name}: the ELF header is cut off.", "Copy the dump again.")
    kind, _, _, _, phoff, shoff, _, _, phentsize, phnum, _, _, _ = header.unpack(raw)
    if kind != ET_CORE:
        raise OpenError(
            f"{name} is an ELF file, but not a core dump.",
            "A vmlinux or other debug info is given with -s; the argument is the dump.",
        )
    if phnum == PN_XNUM:
        # More segments than e_phnum can count: the number is in the first section header's sh_info.
        raw = source.pread(shoff + (44 if wide else 28), 4)
        if len(raw) < 4:
            raise OpenError(f"{name}: the ELF section header is cut off.", "Copy the dump again.")
        (phnum,) = struct.unpack(order + "I", raw)
    segments = _program_headers(source, name, order, wide=wide, phoff=phoff, phentsize=phentsize, phnum=phnum)
    return _describe(source, name, order, segments)


def _program_headers(
    source: ByteSource, name: str, order: str, *, wide: bool, phoff: int, phentsize: int, phnum: int
) -> npt.NDArray[Any]:
    """The program headers: a structured array of type, offset, vaddr, paddr, filesz, memsz."""
    layout, word = (LAYOUT_64, "u8") if wide else (LAYOUT_32, "u4")
    dtype = np.dtype([(field, order + ("u4" if field in {"type", "flags"} else word)) for field in layout])
    if phnum == 0:
        raise OpenError(f"{name}: the core has no program headers.", "Was the dump interrupted?")
    if phentsize != dtype.itemsize or phnum > MAX_SEGMENTS:
        raise OpenError(f"{name}: the ELF program headers are damaged.", "Copy the dump again.")
    raw = source.pread(phoff, phnum * dtype.itemsize)
    if len(raw) < phnum * dtype.itemsize:
        raise OpenError(
            f"{name}: the file ends within its ELF program headers.", "The dump is truncated: copy it again."
        )
    return np.frombuffer(raw, dtype=dtype)


def _describe(source: ByteSource, name: str, order: str, segments: npt.NDArray[Any]) -> ElfCore:
    entries: dict[str, str] = {}
    names: set[tuple[bytes, int]] = set()
    cut_off = False
    described = segments[segments["type"] == PT_NOTE]
    # Segments may overlap: a small file could promise any amount of notes, and drgn would read them all.
    if sum(described["filesz"].tolist()) > MAX_NOTES_SIZE:
        raise OpenError(f"{name}: its ELF notes are larger than any kernel's.", "The dump is damaged.")
    for segment in described:
        size = int(segment["filesz"])
        raw = source.pread(int(segment["offset"]), size)
        cut_off = cut_off or len(raw) < size
        for note, kind, description in notes(raw, order):
            names.add((note, kind))
            if note == b"VMCOREINFO" and not entries:
                entries = parse_vmcoreinfo(description[:MAX_SIZE])
    if not entries:
        raise _not_a_kernel(name, names, cut_off)
    loads = segments[segments["type"] == PT_LOAD]
    page_size = page_size_of(entries)
    intervals, truncated = _intervals(loads, source.size)
    from_qemu = any(note == b"QEMU" for note, _ in names)
    return ElfCore(
        vmcoreinfo=entries,
        coverage=SegmentCoverage(intervals, page_size),
        # makedumpfile keeps QEMU's notes, but QEMU itself leaves nothing out.
        writer="QEMU" if from_qemu and bool((loads["filesz"] == loads["memsz"]).all()) else None,
        truncated=truncated,
    )


def _not_a_kernel(name: str, names: set[tuple[bytes, int]], cut_off: bool) -> OpenError:
    if cut_off:
        return OpenError(
            f"{name}: the file ends within its ELF notes.", "The dump is truncated: copy it again."
        )
    if any(note == b"QEMU" for note, _ in names):
        return OpenError(
            f"{name} is a QEMU guest's core without VMCOREINFO, so the kernel in it cannot be identified.",
            "Start QEMU with -device vmcoreinfo and take the dump again.",
        )
    if (b"CORE", NT_PRPSINFO) in names and (b"CORE", NT_TASKSTRUCT) not in names:
        return OpenError(
            f"{name} is the core dump of a user process, not of a kernel.",
            "Give a vmcore, as kdump, makedumpfile or QEMU write it.",
        )
    return OpenError(
        f"{name} is an ELF core without a VMCOREINFO note, so the kernel in it cannot be identified.",
        "Take the dump with kdump, or with QEMU and -device vmcoreinfo.",
    )


def page_size_of(entries: dict[str, str]) -> int:
    """PAGESIZE of VMCOREINFO, or 4096 where that is missing or no page size."""
    try:
        size = int(entries.get("PAGESIZE", "4096"))
    except ValueError:
        return 4096
    return size if 1 << 10 <= size <= 1 << 20 and size & (size - 1) == 0 else 4096


def _intervals(
    loads: npt.NDArray[Any], file_size: int
) -> tuple[list[tuple[int, int, PhysStatus]], str | None]:
    """Physical byte intervals with their status, disjoint and sorted; and whether the file is cut off."""
    lost = 0
    ranges: list[tuple[int, int]] = []
    statuses: list[PhysStatus] = []
    # All zero means "not known", unless there is but one segment (as drgn's program.c takes it).
    if len(loads) > 1 and not loads["paddr"].any():
        loads = loads[:0]
    for offset, paddr, file_bytes, memory_bytes in zip(
        *(loads[field].tolist() for field in ("offset", "paddr", "filesz", "memsz")), strict=True
    ):
        if paddr == NO_ADDRESS:
            continue
        end = min(paddr + memory_bytes, NO_ADDRESS)
        stored = min(paddr + file_bytes, end)
        present = min(paddr + max(0, file_size - offset), stored)
        lost += stored - present
        # Of one segment the parts do not overlap; a later segment hides an earlier one.
        for start, stop, status in (
            (paddr, present, PhysStatus.PRESENT),
            (present, stored, PhysStatus.TRUNCATED),
            (stored, end, PhysStatus.ZERO_FILLED),
        ):
            if start < stop:
                ranges.append((start, stop))
                statuses.append(status)
    pieces = overlay(ranges)
    truncated = (
        f"the file is truncated: {lost} bytes of memory are past its end ({file_size} bytes)"
        if lost
        else None
    )
    return [(piece.start, piece.end, statuses[piece.number]) for piece in pieces], truncated
