"""Small dumps made by hand: just enough of each format for drgn to open them."""

from __future__ import annotations

import struct
import zlib

PAGE = 4096
VMCOREINFO = (
    b"OSRELEASE=6.12.0-test\nBUILD-ID=00112233445566778899aabbccddeeff00112233\nPAGESIZE=4096\n"
    b"SYMBOL(swapper_pg_dir)=ffffffff82000000\nNUMBER(phys_base)=0\nKERNELOFFSET=0\nCRASHTIME=1700000000\n"
    b"NUMBER(pgtable_l5_enabled)=0\n"
)


def note(name: bytes, kind: int, description: bytes) -> bytes:
    raw = struct.pack("<III", len(name) + 1, len(description), kind)
    raw += (name + b"\0").ljust(len(name) + 4 & ~3, b"\0")
    return raw + description.ljust(len(description) + 3 & ~3, b"\0")


def elf_core(segments, notes=None, *, kind=4, xnum=False):
    """An ELF core. ``segments`` are (physical address, data, size in memory)."""
    if notes is None:
        notes = note(b"VMCOREINFO", 0, VMCOREINFO)
    count = 1 + len(segments)
    offset = 64 + 56 * count + (64 if xnum else 0)
    phdrs = struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, len(notes), len(notes), 0)
    body = notes
    for paddr, data, memsz in segments:
        phdrs += struct.pack(
            "<IIQQQQQQ",
            1,
            0,
            offset + len(body),
            (0xFFFF888000000000 + paddr) % 2**64,
            paddr,
            len(data),
            memsz,
            0,
        )
        body += data
    shoff = 64 + 56 * count if xnum else 0
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", kind, 62, 1, 0, 64, shoff, 0, 64, 56, 0xFFFF if xnum else count, 64, int(xnum), 0
    )
    section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0) if xnum else b""
    return header + phdrs + section + body


def bitmap(pfns, blocks=1):
    packed = bytearray(blocks * PAGE)
    for pfn in pfns:
        packed[pfn // 8] |= 1 << pfn % 8
    return bytes(packed)


def kdump(pages, ram=None, *, level=0, max_mapnr=None, utsname=True, split=0, status=0, share_zeros=True):
    """A kdump-compressed dump (zlib). ``pages`` maps PFNs to their contents."""
    ram = set(pages) if ram is None else set(ram) | set(pages)
    max_mapnr = max_mapnr or max(ram, default=0) + 1
    notes = note(b"VMCOREINFO", 0, VMCOREINFO)
    sub_blocks = 1 + -(-len(notes) // PAGE)
    fields = [b"Linux", b"host", b"6.12.0-test", b"#1 SMP", b"x86_64", b"(none)"]
    header = b"KDUMP   " + struct.pack("<i", 6)
    for number, text in enumerate(fields):
        header += (text if utsname or number == 4 else b"").ljust(65, b"\0")
    header = header.ljust(424, b"\0")
    header += struct.pack("<IiiIIIIIIi", status, PAGE, sub_blocks, 2, 0, 0, 0, 0, 0, 1)
    skip = len(notes) - len(VMCOREINFO) - (-len(VMCOREINFO) % 4)
    sub = struct.pack(
        "<QiiQQqQqQqQQQQ",
        0, level, split, 0, 0, 2 * PAGE + skip, len(VMCOREINFO), 2 * PAGE, len(notes), 0, 0, 0, 0, max_mapnr,
    )  # fmt: skip
    out = header.ljust(PAGE, b"\0") + sub.ljust(PAGE, b"\0") + notes.ljust((sub_blocks - 1) * PAGE, b"\0")
    out += bitmap(ram) + bitmap(pages)
    position = len(out) + 24 * len(pages)
    descriptors = data = b""
    zeros = None
    for pfn in sorted(pages):
        raw = pages[pfn]
        if share_zeros and zeros is not None and not any(raw):
            descriptors += zeros
            continue
        packed = zlib.compress(raw)
        flags = 1
        if len(packed) >= PAGE:
            packed, flags = raw, 0
        descriptor = struct.pack("<QIIQ", position, len(packed), flags, 0)
        descriptors += descriptor
        data += packed
        position += len(packed)
        if not any(raw):
            zeros = descriptor
    return out + descriptors + data


def flatten(raw, size=1000, *, end=True):
    """What ``makedumpfile -F`` makes of a dump."""
    out = (b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)).ljust(4096, b"\0")
    for offset in range(0, len(raw), size):
        part = raw[offset : offset + size]
        out += struct.pack(">qq", offset, len(part)) + part
    return out + (struct.pack(">qq", -1, -1) if end else b"")
