"""kdump-compressed dumps, header version 6 (makedumpfile's diskdump_mod.h and IMPLEMENTATION)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.elfcore import Layout
from mmdump_snapshots.writer.filter import NOTHING, Filter, ram_pages, zero_rows
from mmdump_snapshots.writer.memory import Bytes, PhysicalMemory
from mmdump_snapshots.writer.sink import Sink

__all__ = ["Compression", "write_kdump"]

Compression = Literal["zlib", "zstd"]

SIGNATURE = b"KDUMP   "
VERSION = 6
#: struct disk_dump_header up to its fields of 4 bytes: signature, version, utsname of 6 x 65, timestamp.
UTSNAME_SIZE = 65
TAIL_OFFSET = 424
TAIL = struct.Struct("<IiiIIIIIIi")
SUB_HEADER = struct.Struct("<QiiQQqQqQqQQQQ")
#: DUMP_DH_COMPRESSED_*, in the header's status and in a page's flags.
FLAGS: dict[Compression | None, int] = {"zlib": 0x1, "zstd": 0x20, None: 0}
DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
#: Pages compressed at a time.
WINDOW_PAGES = 1024


def write_kdump(
    sink: Sink,
    memory: PhysicalMemory,
    space: AddressSpace,
    notes: bytes,
    *,
    compression: Compression | None = "zlib",
    filtered: Filter = NOTHING,
    release: str = "",
    cpus: int = 1,
) -> Layout:
    """Write a kdump-compressed dump. Pages of zeros all share one descriptor's data, at any level.

    :param notes: See :func:`~mmdump_snapshots.writer.elfcore.core_notes`; VMCOREINFO is found in them.
    :param release: The kernel's release, for the header's utsname.
    :return: The parts of the file.
    """
    page = space.page_size
    ends = memory.end >> space.page_shift
    ram = np.zeros(ends, np.bool_)
    for first, last in ram_pages(memory, space.page_shift):
        ram[first:last] = True
    dumped = ram.copy()
    for first, last in ram_pages(memory, space.page_shift):
        dumped[first:last] &= ~filtered.pages(first, last)
    sub_blocks = 1 + -(-len(notes) // page)
    half = -(-ends // (8 * page)) * page
    bitmaps_at = (1 + sub_blocks) * page
    table_at = bitmaps_at + 2 * half
    count = int(dumped.sum())
    header = _header(space, sub_blocks, 2 * half // page, ends, FLAGS[compression], release, cpus)
    header = header.ljust(page, b"\0") + _sub_header(space, notes, 2 * page, ends, filtered.level)
    sink.write_at(0, (header.ljust(2 * page, b"\0") + notes).ljust(bitmaps_at, b"\0"))
    for number, bits in enumerate((ram, dumped)):
        packed = np.zeros(half, np.uint8)
        packed[: (ends + 7) // 8] = np.packbits(bits, bitorder="little")
        sink.write_at(bitmaps_at + number * half, packed)
    data_at = table_at + DESCRIPTOR.itemsize * count
    end = _pages(sink, memory, space, dumped, table_at, data_at, compression)
    sink.finish(end)
    return {
        "header": ((0, TAIL_OFFSET + TAIL.size),),
        "sub header": ((page, page + SUB_HEADER.size),),
        "notes": ((2 * page, 2 * page + len(notes)),),
        "bitmaps": ((bitmaps_at, table_at),),
        "descriptors": ((table_at, data_at),),
        "data": ((data_at, end),),
    }


def _header(
    space: AddressSpace, sub_blocks: int, bitmap_blocks: int, ends: int, status: int, release: str, cpus: int
) -> bytes:
    names = ("Linux", "snapshot", release, "#1 SMP", space.arch, "(none)")
    raw = SIGNATURE + struct.pack("<i", VERSION)
    raw += b"".join(name.encode()[: UTSNAME_SIZE - 1].ljust(UTSNAME_SIZE, b"\0") for name in names)
    raw = raw.ljust(TAIL_OFFSET, b"\0")
    return raw + TAIL.pack(
        status, space.page_size, sub_blocks, bitmap_blocks, min(ends, 0xFFFFFFFF), 0, 0, 0, 0, cpus
    )


def _sub_header(space: AddressSpace, notes: bytes, notes_at: int, ends: int, level: int) -> bytes:
    # Behind its name and the three words before it.
    name = notes.index(b"VMCOREINFO\0")
    _, size, _ = struct.unpack_from("<III", notes, name - 12)
    info_at = notes_at + name + 12
    phys_base = space.phys_base if space.arch == "x86_64" else space.memstart
    return SUB_HEADER.pack(
        phys_base & ((1 << 64) - 1), level, 0, 0, 0, info_at, size, notes_at, len(notes), 0, 0, 0, 0, ends
    )


def _compressor(compression: Compression | None) -> Callable[[bytes], bytes] | None:
    if compression == "zlib":
        return lambda page: zlib.compress(page, 1)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress
    return None


def _pages(
    sink: Sink,
    memory: PhysicalMemory,
    space: AddressSpace,
    dumped: NDArray[np.bool_],
    table_at: int,
    data_at: int,
    compression: Compression | None,
) -> int:
    """Write descriptors and data of the dumped pages; the end of the file."""
    page = space.page_size
    compress = _compressor(compression)
    sink.write_at(data_at, bytes(page))
    zero = (data_at, page, 0, 0)
    position = data_at + page
    for start, stop, data in memory.windows(WINDOW_PAGES * page):
        first, last = -(-start // page), stop // page
        kept = dumped[first:last]
        count = int(kept.sum())
        if not count:
            continue
        descriptors = np.empty(count, DESCRIPTOR)
        descriptors[:] = np.array(zero, DESCRIPTOR)
        if data is not None:
            rows = data[first * page - start : last * page - start].reshape(-1, page)[kept]
            position = _compress(sink, rows, descriptors, position, compress, FLAGS[compression])
        sink.write_at(table_at, descriptors.view(np.uint8))
        table_at += descriptors.nbytes
    return position


def _compress(
    sink: Sink,
    rows: Bytes,
    descriptors: NDArray[np.void],
    position: int,
    compress: Callable[[bytes], bytes] | None,
    flag: int,
) -> int:
    """Write pages that are not zero from ``position`` on, set their descriptors; where they end."""
    page = rows.shape[1]
    filled = np.flatnonzero(~zero_rows(rows))
    if compress is None:
        descriptors["offset"][filled] = position + page * np.arange(len(filled))
        sink.write_at(position, rows[filled].reshape(-1))
        return position + page * len(filled)
    parts = []
    sizes = np.empty(len(filled), np.int64)
    for number, row in enumerate(filled.tolist()):
        raw = rows[row].tobytes()
        packed = compress(raw)
        # What does not get smaller is stored as it is.
        parts.append(packed if len(packed) < page else raw)
        sizes[number] = len(parts[-1])
    ends = np.cumsum(sizes)
    descriptors["offset"][filled] = position + ends - sizes
    descriptors["size"][filled] = sizes
    descriptors["flags"][filled] = np.where(sizes < page, flag, 0)
    sink.write_at(position, b"".join(parts))
    return position + int(sizes.sum())
