"""kdump-compressed dumps: what makedumpfile and QEMU write (makedumpfile diskdump_mod.h, IMPLEMENTATION)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdump.amounts import counted
from mmdump.errors import OpenError
from mmdump.target.coverage import BitmapCoverage, PhysStatus, popcount
from mmdump.target.source import ByteSource
from mmdump.target.vmcoreinfo import MAX_SIZE, find_note, parse_vmcoreinfo

__all__ = ["SIGNATURE", "UTSNAME_FIELDS", "UTSNAME_OFFSET", "UTSNAME_SIZE", "KdumpFile", "parse_kdump"]

SIGNATURE = b"KDUMP   "
#: struct new_utsname: sysname, nodename, release, version, machine, domainname, 65 bytes each.
UTSNAME_OFFSET = 12
UTSNAME_SIZE = 65
UTSNAME_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
#: Of struct disk_dump_header on 64-bit: status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr.
HEADER_TAIL_OFFSET = 424
HEADER_TAIL = "IiiII"
HEADER_SIZE = HEADER_TAIL_OFFSET + struct.calcsize("=" + HEADER_TAIL)
#: block_size in the 32-bit layout, where struct timeval is half as long.
BLOCK_SIZE_OFFSET_32 = 416
#: struct kdump_sub_header, 64-bit. Fields grew with header_version; those not there yet are read as 0.
SUB_HEADER_FIELDS = (
    ("phys_base", "Q"), ("dump_level", "i"), ("split", "i"), ("start_pfn", "Q"), ("end_pfn", "Q"),
    ("offset_vmcoreinfo", "q"), ("size_vmcoreinfo", "Q"), ("offset_note", "q"), ("size_note", "Q"),
    ("offset_eraseinfo", "q"), ("size_eraseinfo", "Q"),
    ("start_pfn_64", "Q"), ("end_pfn_64", "Q"), ("max_mapnr_64", "Q"),
)  # fmt: skip
#: The fields that each header_version has.
FIELDS_OF_VERSION = {1: 2, 2: 5, 3: 7, 4: 9, 5: 11}
DL_EXCLUDE_ZERO = 1
#: Bits of disk_dump_header.status and page_desc.flags.
COMPRESSIONS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}
DUMP_DH_COMPRESSED_INCOMPLETE = 0x8
PAGE_DESC_SIZE = 24
#: Descriptors read at a time.
DESC_CHUNK = 1 << 16
MAX_NOTES_SIZE = 1 << 26


@dataclass(frozen=True)
class KdumpFile:
    """What the headers of a kdump-compressed file say.

    :param utsname: Its non-empty fields. QEMU fills in only ``machine``.
    """

    vmcoreinfo: dict[str, str]
    coverage: BitmapCoverage
    compression: str | None
    filter_level: int | None
    writer: str | None
    truncated: str | None
    utsname: dict[str, str]
    descriptors: Descriptors


def parse_kdump(source: ByteSource, name: str) -> KdumpFile:
    """Read the headers of a kdump-compressed dump; page descriptors only as far as it takes.

    :param source: The file, which begins with :data:`SIGNATURE`.
    :param name: The file's name, for messages.
    :raises OpenError: damaged, cut off before the page descriptors, of a 32-bit kernel, or one of
        several files of a split dump
    """
    header = source.pread(0, HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        raise OpenError(f"{name}: the kdump header is cut off.", "The dump is truncated: copy it again.")
    order, version = _byte_order(header, name)
    status, block_size, sub_blocks, bitmap_blocks, max_mapnr = struct.unpack_from(
        order + HEADER_TAIL, header, HEADER_TAIL_OFFSET
    )
    if not _is_page_size(block_size):
        (block_size,) = struct.unpack_from(order + "i", header, BLOCK_SIZE_OFFSET_32)
        if _is_page_size(block_size):
            raise OpenError(f"{name} is the dump of a 32-bit kernel, which is not supported.")
        raise _damaged(name, "page size")
    if sub_blocks < 1 or (1 + sub_blocks) * block_size >= source.size:
        raise OpenError(
            f"{name}: the file ends within its kdump headers, or they are damaged.",
            "The dump is truncated or damaged: copy it again.",
        )
    sub = _sub_header(source, name, order, version, block_size)
    if sub["split"]:
        raise OpenError(
            f"{name} is one part of a dump that makedumpfile --split wrote into several files.",
            "Join the parts first: makedumpfile --reassemble PART... DUMP.",
        )
    for what in ("vmcoreinfo", "note", "eraseinfo"):
        # libkdumpfile maps these and dies of SIGBUS when they are past the end of the file.
        offset, size = sub[f"offset_{what}"], sub[f"size_{what}"]
        if (offset or size) and not 0 <= offset <= source.size - size:
            raise OpenError(
                f"{name}: its {what} is past the end of the file.",
                "The dump is truncated or damaged: copy it again.",
            )
    if version >= 6:
        max_mapnr = sub["max_mapnr_64"]
    ram, dumped = _bitmaps(source, name, (1 + sub_blocks) * block_size, bitmap_blocks * block_size, max_mapnr)
    descriptors = Descriptors(
        source, (1 + sub_blocks + bitmap_blocks) * block_size, order, dumped=dumped, max_mapnr=max_mapnr
    )
    filter_level = sub["dump_level"] if version >= 1 and 0 <= sub["dump_level"] < 1 << 16 else None
    truncated = descriptors.describe_truncation(bool(status & DUMP_DH_COMPRESSED_INCOMPLETE))
    utsname = _utsname(header)
    vmcoreinfo = _vmcoreinfo(source, order, sub)
    if not vmcoreinfo:
        raise OpenError(
            f"{name} has no VMCOREINFO, so the kernel in it cannot be identified.",
            "With QEMU, start it with -device vmcoreinfo and take the dump again.",
        )
    return KdumpFile(
        vmcoreinfo=vmcoreinfo,
        coverage=BitmapCoverage(
            ram,
            dumped,
            max_mapnr,
            block_size,
            missing=_status_of_missing(filter_level, descriptors),
            truncated=partial(descriptors.truncated_pages) if truncated else None,
        ),
        compression=_compression(status) or _compression(descriptors.flags()),
        filter_level=filter_level,
        writer="makedumpfile" if "sysname" in utsname else "QEMU",
        truncated=truncated,
        utsname=utsname,
        descriptors=descriptors,
    )


def _damaged(name: str, what: str) -> OpenError:
    return OpenError(f"{name}: the kdump header is damaged ({what}).", "Copy the dump again.")


def _is_page_size(size: int) -> bool:
    return 1 << 12 <= size <= 1 << 20 and size & (size - 1) == 0


def _byte_order(header: bytes, name: str) -> tuple[str, int]:
    for order in "<>":
        (version,) = struct.unpack_from(order + "i", header, 8)
        if 0 <= version < 1 << 16:
            return order, version
    raise _damaged(name, "version")


def _utsname(header: bytes) -> dict[str, str]:
    found = {}
    for number, field in enumerate(UTSNAME_FIELDS):
        start = UTSNAME_OFFSET + number * UTSNAME_SIZE
        raw = header[start : start + UTSNAME_SIZE].split(b"\0", 1)[0]
        if raw:
            found[field] = raw.decode("utf-8", "backslashreplace")
    return found


def _sub_header(source: ByteSource, name: str, order: str, version: int, offset: int) -> dict[str, int]:
    fields = SUB_HEADER_FIELDS[: FIELDS_OF_VERSION.get(version, len(SUB_HEADER_FIELDS) if version else 1)]
    layout = struct.Struct(order + "".join(kind for _, kind in fields))
    raw = source.pread(offset, layout.size)
    if len(raw) < layout.size:
        raise OpenError(f"{name}: the kdump sub header is cut off.", "The dump is truncated: copy it again.")
    values = dict.fromkeys((field for field, _ in SUB_HEADER_FIELDS), 0)
    values.update(zip((field for field, _ in fields), layout.unpack(raw), strict=True))
    return values


def _bitmaps(
    source: ByteSource, name: str, offset: int, size: int, max_mapnr: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The packed bits of the pages that are RAM, and of those that are dumped."""
    needed = (max_mapnr + 7) // 8
    # The bitmaps have the same size; the oldest dumps have only the second one.
    half = size // 2 if needed <= size // 2 else size
    if max_mapnr == 0 or needed > half:
        raise _damaged(name, "number of pages")
    if offset + size > source.size:
        raise OpenError(
            f"{name}: the file ends within its page bitmaps.", "The dump is truncated: copy it again."
        )
    try:
        ram = source.array(offset, needed)
        dumped = source.array(offset + size - half, needed)
    except ValueError as error:
        raise OpenError(f"{name} is damaged: {error}.", "Copy the dump again.") from error
    return ram, dumped


def _vmcoreinfo(source: ByteSource, order: str, sub: dict[str, int]) -> dict[str, str]:
    """VMCOREINFO by its own offset, or from the ELF notes; empty when it is nowhere."""
    size = min(sub["size_vmcoreinfo"], MAX_SIZE)
    if sub["offset_vmcoreinfo"] > 0 and size:
        entries = parse_vmcoreinfo(source.pread(sub["offset_vmcoreinfo"], size))
        if entries:
            return entries
    size = min(sub["size_note"], MAX_NOTES_SIZE)
    if sub["offset_note"] > 0 and size:
        raw = find_note(source.pread(sub["offset_note"], size), order, b"VMCOREINFO")
        return parse_vmcoreinfo((raw or b"")[:MAX_SIZE])
    return {}


def _compression(flags: int) -> str | None:
    return "+".join(name for bit, name in COMPRESSIONS.items() if flags & bit) or None


def _status_of_missing(filter_level: int | None, descriptors: Descriptors) -> PhysStatus:
    """What it means that a RAM page is not dumped.

    A zero page is not left out: makedumpfile (since 1.3.4) and QEMU give all of them one descriptor of
    one page of zeros (write_kdump_pages_cyclic(), pd_zero). Only where that is not seen although zero
    pages were filtered must a missing page be taken for one that may be zero.
    """
    if filter_level is None or not filter_level & DL_EXCLUDE_ZERO or descriptors.share_data():
        return PhysStatus.EXCLUDED
    return PhysStatus.ZERO_FILLED


class Descriptors:
    """The table of struct page_desc: one per dumped page, in PFN order."""

    def __init__(
        self,
        source: ByteSource,
        offset: int,
        order: str,
        *,
        dumped: npt.NDArray[np.uint8],
        max_mapnr: int,
    ) -> None:
        self._source = source
        self._offset = offset
        self._dumped = dumped
        self._max_mapnr = max_mapnr
        self._dtype = np.dtype(
            [
                ("offset", order + "i8"),
                ("size", order + "u4"),
                ("flags", order + "u4"),
                ("page_flags", order + "u8"),
            ]
        )
        self.count = sum(
            popcount(self._packed(start, DESC_CHUNK)) for start in range(0, (max_mapnr + 7) // 8, DESC_CHUNK)
        )

    def _packed(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        """Bytes of the bitmap, without the bits past max_mapnr."""
        packed = np.array(self._dumped[start : min(start + size, (self._max_mapnr + 7) // 8)])
        if len(packed) and (start + len(packed)) * 8 > self._max_mapnr:
            packed[-1] &= (1 << (self._max_mapnr & 7)) - 1
        return packed

    def _read(self, first: int, count: int) -> npt.NDArray[Any]:
        """Descriptors from number ``first``, as many of ``count`` as the file has."""
        count = max(0, min(count, self.count - first))
        raw = self._source.pread(self._offset + first * PAGE_DESC_SIZE, count * PAGE_DESC_SIZE)
        return np.frombuffer(raw, dtype=self._dtype, count=len(raw) // PAGE_DESC_SIZE)

    def flags(self) -> int:
        """All flags of the first descriptors, or-ed."""
        return int(np.bitwise_or.reduce(self._read(0, DESC_CHUNK)["flags"], initial=0))

    def share_data(self) -> bool:
        """Whether pages share their data, as zero pages do: looked for at both ends of the table."""
        for first in (0, max(0, self.count - DESC_CHUNK)):
            offsets = self._read(first, DESC_CHUNK)["offset"]
            if len(np.unique(offsets[offsets > 0])) < np.count_nonzero(offsets > 0):
                return True
        return False

    def _lost(self, descriptors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """The pages without data: outside of where there can be any, or never written (all zeros)."""
        offset = descriptors["offset"].astype(np.int64)
        size = descriptors["size"].astype(np.int64)
        lost: npt.NDArray[np.bool_] = (
            (offset < self._offset) | (size == 0) | (offset > self._source.size - size)
        )
        return lost

    def describe_truncation(self, incomplete: bool) -> str | None:
        """One sentence when data is missing: at the end of a file cut off, anywhere in a damaged one.

        Data is written in the order of the descriptors, so the last pages are missing first.

        :param incomplete: makedumpfile itself noted that it could not finish.
        """
        last = self._read(max(0, self.count - DESC_CHUNK), DESC_CHUNK)
        if len(last) < min(self.count, DESC_CHUNK):
            return "the file is truncated: it ends within its page descriptors"
        if incomplete:
            return "makedumpfile marked the dump as incomplete (no space left when it was written?)"
        if len(last) and self._lost(last[-1:]).any():
            return f"the file is truncated: its last pages are past its end ({self._source.size} bytes)"
        lost, data, nearest = 0, self._source.size, self._source.size + 1
        for first in range(0, self.count, DESC_CHUNK):
            descriptors = self._read(first, DESC_CHUNK)
            gone = self._lost(descriptors)
            lost += int(np.count_nonzero(gone))
            offsets = np.where(descriptors["size"] > 0, descriptors["offset"], 0)
            nearest = min(nearest, int(offsets[gone].min(initial=nearest)))
            data = min(data, int(descriptors["offset"][~gone].min(initial=data)))
        if self.end <= nearest <= self._source.size:
            # Pages of zeros share their data, which may come early: that of the last page says nothing. But a
            # file that was cut off ends within the data of a page, or before it.
            pages = counted(lost, "page is", "pages are")
            return f"the file is truncated: {pages} past its end ({self._source.size} bytes)"
        if lost:
            pages = counted(lost, "page")
            return f"the file is damaged: the descriptors of {pages} lead past its end, or nowhere"
        if self.count and data != self.end:
            # A descriptor is found by counting bits: with one bit more or less, pages are taken for others.
            return "the file is damaged: its bitmap of dumped pages does not fit its page descriptors"
        return None

    @property
    def end(self) -> int:
        """The offset of the first byte after the table."""
        return self._offset + self.count * PAGE_DESC_SIZE

    def blanked(self) -> Iterator[tuple[int, bytes]]:
        """(file offset, bytes) of the parts of the table that hold descriptors of lost pages, those zeroed.

        A descriptor of zeros makes libkdumpfile refuse the page; one that points past the end of the
        file makes it touch a memory map there, and the process dies of SIGBUS.
        """
        for first in range(0, self.count, DESC_CHUNK):
            descriptors = self._read(first, DESC_CHUNK)
            lost = self._lost(descriptors)
            if lost.any():
                descriptors = descriptors.copy()
                descriptors[lost] = 0
                yield self._offset + first * PAGE_DESC_SIZE, descriptors.tobytes()

    def truncated_pages(self) -> npt.NDArray[np.uint8]:
        """Packed bits, lowest first, of the dumped pages whose data is not in the file."""
        packed = np.zeros((self._max_mapnr + 7) // 8, dtype=np.uint8)
        first = 0
        for start in range(0, len(packed), DESC_CHUNK // 8):
            dumped = np.unpackbits(self._packed(start, DESC_CHUNK // 8), bitorder="little")
            pages = np.flatnonzero(dumped)
            # A page whose descriptor is not there is lost, too.
            lost = np.ones(len(pages), dtype=np.bool_)
            read = self._read(first, len(pages))
            lost[: len(read)] = self._lost(read)
            dumped[pages] = lost
            packed[start : start + DESC_CHUNK // 8] = np.packbits(dumped, bitorder="little")
            first += len(pages)
        return packed
