"""The parts of an ELF file, 64 bits and little endian: headers, tables, notes, strings, symbols."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EHDR_SIZE",
    "MACHINES",
    "PHDR",
    "SHDR",
    "SYM",
    "Section",
    "Segment",
    "StringTable",
    "header",
    "note",
    "place",
    "program_headers",
    "section_headers",
    "symbols",
]

#: e_machine by architecture.
MACHINES = {"x86_64": 62, "aarch64": 183}

ET_EXEC, ET_DYN, ET_CORE = 2, 3, 4
PT_LOAD, PT_NOTE = 1, 4
PF_X, PF_W, PF_R = 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE, SHT_NOBITS = 1, 2, 3, 7, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_MERGE, SHF_STRINGS = 1, 2, 4, 0x10, 0x20
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_FILE = 0, 1, 2, 4
STB_LOCAL, STB_GLOBAL = 0, 1
SHN_ABS = 0xFFF1
NT_GNU_BUILD_ID = 3

EHDR_SIZE = 64

#: Elf64_Phdr, Elf64_Shdr and Elf64_Sym.
PHDR = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("vaddr", "<u8"),
        ("paddr", "<u8"),
        ("filesz", "<u8"),
        ("memsz", "<u8"),
        ("align", "<u8"),
    ]
)
SHDR = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("addr", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("addralign", "<u8"),
        ("entsize", "<u8"),
    ]
)
SYM = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


@dataclass(frozen=True)
class Segment:
    """A program header. ``memsz`` of None is the same as ``filesz``."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int | None = None
    align: int = 0


@dataclass(frozen=True)
class Section:
    """A section: its header and what it holds.

    :ivar data: Contents; None for one without any in the file (``SHT_NOBITS``).
    :ivar size: Bytes; that of ``data`` where there is any.
    :ivar offset: Where in the file it is; given by :func:`place`.
    """

    name: str
    type: int
    flags: int = 0
    address: int = 0
    data: bytes | None = None
    size: int = 0
    link: int = 0
    info: int = 0
    align: int = 1
    entsize: int = 0
    offset: int = 0


class StringTable:
    """Strings that end in a zero byte, each once."""

    def __init__(self) -> None:
        self._data = bytearray(b"\0")
        self._offsets = {"": 0}

    def add(self, text: str) -> int:
        """Its offset."""
        found = self._offsets.get(text)
        if found is None:
            found = self._offsets[text] = len(self._data)
            self._data += text.encode() + b"\0"
        return found

    def __bytes__(self) -> bytes:
        return bytes(self._data)


def header(
    kind: int,
    arch: str,
    *,
    phnum: int = 0,
    phoff: int = EHDR_SIZE,
    shnum: int = 0,
    shoff: int = 0,
    shstrndx: int = 0,
    entry: int = 0,
) -> bytes:
    """An Elf64_Ehdr.

    :param kind: ``ET_EXEC``, ``ET_DYN`` or ``ET_CORE``.
    :param arch: One of :data:`MACHINES`.
    :param phnum: Program headers, fewer than 0xffff.
    """
    return struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        b"\x7fELF",
        2,  # ELFCLASS64
        1,  # ELFDATA2LSB
        1,
        0,
        0,
        kind,
        MACHINES[arch],
        1,
        entry,
        phoff if phnum else 0,
        shoff,
        0,
        EHDR_SIZE,
        PHDR.itemsize,
        phnum,
        SHDR.itemsize,
        shnum,
        shstrndx,
    )


def program_headers(segments: Iterable[Segment]) -> bytes:
    """Program headers; whoever has many in numpy fills an array of :data:`PHDR` instead."""
    rows = [
        (
            each.type,
            each.flags,
            each.offset,
            each.vaddr,
            each.paddr,
            each.filesz,
            each.filesz if each.memsz is None else each.memsz,
            each.align,
        )
        for each in segments
    ]
    return np.array(rows, PHDR).tobytes()


def section_headers(sections: Sequence[Section], names: StringTable) -> bytes:
    """Section headers, the empty one not included."""
    rows = [
        (
            names.add(each.name),
            each.type,
            each.flags,
            each.address,
            each.offset,
            each.size if each.data is None else len(each.data),
            each.link,
            each.info,
            each.align,
            each.entsize,
        )
        for each in sections
    ]
    return np.array(rows, SHDR).tobytes()


def note(name: str, kind: int, desc: bytes, align: int = 4) -> bytes:
    """A note (Elf64_Nhdr) with its name and contents, each padded to ``align``."""
    raw = name.encode() + b"\0"
    head = struct.pack("<III", len(raw), len(desc), kind)
    return head + raw + bytes(-len(raw) % align) + desc + bytes(-len(desc) % align)


def symbols(rows: Sequence[tuple[int, int, int, int, int, int]]) -> NDArray[np.void]:
    """A symbol table, the empty first one included.

    :param rows: (name, info, other, shndx, value, size), those of ``STB_LOCAL`` first.
    """
    return np.array([(0, 0, 0, 0, 0, 0), *rows], SYM)


def place(sections: Sequence[Section], start: int) -> tuple[list[Section], int]:
    """Give sections with contents their place in the file, one after the other.

    The offset of a section that is mapped is its address modulo 4 KiB, as program headers want it.

    :param start: The first offset that is free.
    :return: The sections with their offsets, and the offset where the last one ends.
    """
    placed = []
    for each in sections:
        start = -(-start // each.align) * each.align
        if each.flags & SHF_ALLOC:
            start += (each.address - start) % 4096
        placed.append(replace(each, offset=start))
        start += len(each.data or b"")
    return placed, start
