"""Bulk reads of memory around what is missing: all bytes at once, and a status for every page of them."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

import drgn
import numpy as np
import numpy.typing as npt

from mmdump.target.coverage import PhysicalCoverage, PhysStatus

if TYPE_CHECKING:
    from drgn import Object

__all__ = ["MAX_READ", "Chunk", "ReadStatus", "Reader"]

Bytes = npt.NDArray[np.uint8]
DirectMap = tuple[int, int]

#: No caller needs more at once; a size from the dump may be anything.
MAX_READ = 256 << 20
ADDRESS_SPACE = 1 << 64
#: What makedumpfile's --config and --eppic write over erased data.
ERASED_BYTE = ord("X")


#: Where the kernel has the upper half of the address space to itself. Not on s390x.
UPPER_HALF = 1 << 63
UPPER_HALF_ARCHITECTURES = ("X86_64", "AARCH64", "PPC64", "RISCV64")


class ReadStatus(IntEnum):
    """What came of reading a page, from best to worst."""

    #: These are the page's bytes.
    READ = 0
    #: The bytes are zeros, but the page may have been filtered out of the dump.
    ZERO_FILLED = 1
    #: The page is not in the dump, or there is nothing at this address.
    UNREADABLE = 2
    #: The bytes are in the dump, but were overwritten when it was taken (makedumpfile's erase filter).
    ERASED = 3


#: What reading a physical page of a status comes to.
OUTCOME = np.zeros(len(PhysStatus), dtype=np.uint8)
OUTCOME[PhysStatus.ZERO_FILLED] = ReadStatus.ZERO_FILLED
OUTCOME[[PhysStatus.EXCLUDED, PhysStatus.TRUNCATED, PhysStatus.ABSENT]] = ReadStatus.UNREADABLE


class Chunk:
    """What a read returned.

    :ivar address: Of the first byte.
    :ivar data: The bytes: uint8 array of shape (size,), read-only, zeros where nothing was read. Of
        shape (0,) when more than :data:`MAX_READ` was asked for.
    :ivar status: :class:`ReadStatus` of every page touched by the bytes: uint8 array.
    :ivar complete: Whether every page was READ.
    """

    __slots__ = ("address", "complete", "data", "page_size", "status")

    def __init__(self, address: int, data: Bytes, status: Bytes, page_size: int, complete: bool) -> None:
        self.address = address
        self.data = data
        self.status = status
        self.page_size = page_size
        self.complete = complete

    def row_status(self, itemsize: int, count: int) -> Bytes:
        """The status of rows: consecutive items of ``itemsize`` bytes from the first byte on.

        A row has the worst status of the pages it touches; it is ERASED when it was read and consists
        of makedumpfile's erase byte alone. Rows past the end of the data are UNREADABLE.

        :return: uint8 array of shape (count,), of :class:`ReadStatus`.
        :raises ValueError: ``itemsize`` is not positive or ``count`` negative
        """
        if itemsize <= 0 or count < 0:
            raise ValueError("rows have a positive size and a count that is not negative")
        rows = min(count, len(self.data) // itemsize)
        out = np.zeros(count, dtype=np.uint8)
        out[rows:] = ReadStatus.UNREADABLE
        if rows == 0:
            return out
        if not self.complete:
            shift = self.page_size.bit_length() - 1
            starts = np.arange(rows, dtype=np.int64) * itemsize + self.address % self.page_size
            first = starts >> shift
            last = (starts + (itemsize - 1)) >> shift
            if itemsize <= self.page_size:  # two pages at most
                np.maximum(self.status[first], self.status[last], out=out[:rows])
            else:
                # Pairs [first, last + 1); the odd segments of reduceat are not wanted. The extra page
                # keeps the last bound in range.
                bounds = np.stack([first, last + 1], axis=1).ravel()
                padded = np.append(self.status, np.uint8(ReadStatus.READ))
                out[:rows] = np.maximum.reduceat(padded, bounds)[::2]
        table = self.data[: rows * itemsize].reshape(rows, itemsize)
        # Looking at one byte per row costs little; only then at all of them.
        erased = np.flatnonzero((table[:, 0] == ERASED_BYTE) & (out[:rows] == ReadStatus.READ))
        if len(erased):
            out[erased[(table[erased] == ERASED_BYTE).all(axis=1)]] = ReadStatus.ERASED
        return out


class Reader:
    """Reads memory of a Program in bulk.

    :param prog: The Program. It needs debug info only to translate addresses outside the direct map.
    :param page_size: Bytes per page of the kernel.
    :param coverage: Which physical pages are in the dump; ``None`` for a live kernel.
    :param direct_map: Kernel addresses [base, end) that map physical memory from 0 on, or a function
        that finds them when they are first needed; ``None`` when not known.
    """

    def __init__(
        self,
        prog: drgn.Program,
        page_size: int,
        coverage: PhysicalCoverage | None = None,
        direct_map: DirectMap | Callable[[], DirectMap | None] | None = None,
    ) -> None:
        self._prog = prog
        self._page_size = page_size
        # With other pages than the kernel's the tables would not line up; no dump has that.
        self._coverage = coverage if coverage is not None and coverage.page_size == page_size else None
        self._find_direct_map = direct_map
        self._direct_map: DirectMap | None = None
        self._init_mm: Object | None = None
        # drgn reads a low address of a QEMU core, whose segments have p_vaddr = p_paddr, as a physical one:
        # a null pointer would have contents.
        kernel = bool(prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL) and prog.platform is not None
        upper_half = kernel and prog.platform.arch.name in UPPER_HALF_ARCHITECTURES
        self._lowest = UPPER_HALF if upper_half else 0
        self._zero_filled = self._coverage is not None and self._coverage.has_zero_filled

    def read(self, address: int, size: int) -> Chunk:
        """Read kernel virtual memory.

        Never raises for what is in the dump: what cannot be read is UNREADABLE, as is everything at an
        address that does not exist.

        :param size: Bytes; more than :data:`MAX_READ` are not read at all.
        :raises ValueError: ``size`` is negative
        """
        return self._read(address, size, physical=False)

    def read_physical(self, address: int, size: int) -> Chunk:
        """Read physical memory; otherwise as :meth:`read`."""
        return self._read(address, size, physical=True)

    def _read(self, address: int, size: int, physical: bool) -> Chunk:
        if size < 0:
            raise ValueError("size is negative")
        page = self._page_size
        first = address // page
        pages = (address + size + page - 1) // page - first if size else 0
        lowest = 0 if physical else self._lowest
        if address < lowest or address + size > ADDRESS_SPACE or size > MAX_READ:
            # An end past the last address would wrap around to address 0.
            data = np.zeros(size if size <= MAX_READ else 0, dtype=np.uint8)
            data.flags.writeable = False
            status = np.full(pages if size <= MAX_READ else 1, ReadStatus.UNREADABLE, dtype=np.uint8)
            return Chunk(address, data, status, page, complete=size == 0)
        try:
            raw = self._prog.read(address, size, physical)
        except Exception:  # FaultError, and what libkdumpfile and page table walks raise besides
            return self._read_around(address, size, first, pages, physical)
        data = np.frombuffer(raw, dtype=np.uint8)
        status = np.zeros(pages, dtype=np.uint8)
        if self._zero_filled:
            self._find_zero_filled(address, data, status, physical)
            return Chunk(address, data, status, page, complete=not status.any())
        return Chunk(address, data, status, page, complete=True)

    def _read_around(self, address: int, size: int, first: int, pages: int, physical: bool) -> Chunk:
        """Read what can be read of a range that cannot be read as a whole."""
        data = np.zeros(size, dtype=np.uint8)
        status = np.full(pages, ReadStatus.UNREADABLE, dtype=np.uint8)
        chunk = Chunk(address, data, status, self._page_size, complete=False)
        # Of the direct map the physical addresses are read: that needs no page tables, which may be missing.
        pfn = first if physical else self._direct_map_pfn(address, pages)
        known = None
        if pfn is None or self._coverage is None:
            self._bisect(chunk, 0, pages, address if physical else None)
        else:
            known = self._coverage.status(pfn, pages)
            status[:] = OUTCOME[known]
            # Zero filled pages need no reading: ELF would give zeros, kdump a fault.
            for low, high in _runs(known == PhysStatus.PRESENT):
                status[low:high] = ReadStatus.UNREADABLE
                self._bisect(chunk, low, high, pfn * self._page_size + address % self._page_size)
        if self._zero_filled and known is None:
            self._find_zero_filled(address, data, status, physical)
        data.flags.writeable = False
        # A live kernel may have answered the second time.
        chunk.complete = not status.any()
        return chunk

    def _bisect(self, chunk: Chunk, low: int, high: int, physical: int | None) -> None:
        """Read pages [low, high) of a chunk into it, halving what faults down to single pages.

        :param physical: The physical address of the chunk, or ``None`` to read by its virtual one.
        """
        page = self._page_size
        first = chunk.address - chunk.address % page
        stop = chunk.address + len(chunk.data)
        shift = 0 if physical is None else physical - chunk.address
        # (first page, one past the last, known to fail as a whole, left half of a range that failed)
        pending = [(low, high, False, False)]
        while pending:
            low, high, hopeless, left = pending.pop()
            if not hopeless:
                start = max(first + low * page, chunk.address)
                end = min(first + high * page, stop)
                try:
                    raw = self._prog.read(start + shift, end - start, physical is not None)
                except Exception:  # see _read()
                    hopeless = True
                else:
                    chunk.data[start - chunk.address : end - chunk.address] = np.frombuffer(
                        raw, dtype=np.uint8
                    )
                    chunk.status[low:high] = ReadStatus.READ
                    if left:  # then the right half is why the whole failed
                        pending[-1] = (*pending[-1][:2], True, False)
            if hopeless and high - low > 1:
                middle = (low + high + 1) // 2
                pending.append((middle, high, False, False))
                pending.append((low, middle, False, True))

    def _direct_map_pfn(self, address: int, pages: int) -> int | None:
        """The PFN of an address if ``pages`` from it on lie in the direct map."""
        if callable(self._find_direct_map):
            self._direct_map = self._find_direct_map()
            self._find_direct_map = None
        elif self._find_direct_map is not None:
            self._direct_map = self._find_direct_map
        if self._direct_map is None:
            return None
        base, end = self._direct_map
        # On arm64 the address of physical 0 may be "below" 0.
        pfn = (address - base) % ADDRESS_SPACE // self._page_size
        return pfn if pfn + pages <= (end - base) // self._page_size else None

    def _find_zero_filled(self, address: int, data: Bytes, status: Bytes, physical: bool) -> None:
        """Change READ into ZERO_FILLED for pages whose zeros are not from the dump.

        In place. Pages that were UNREADABLE become ZERO_FILLED, too, if the dump has them as such.
        """
        coverage = self._coverage
        assert coverage is not None
        page = self._page_size
        skew = address % page
        suspects = np.ones(len(status), dtype=np.bool_)
        low = -skew % page
        whole = (len(data) - low) // page if len(data) > low else 0
        if whole > 0:
            words = data[low : low + whole * page].reshape(whole, page)
            zero = words[:, 0] == 0
            candidates = np.flatnonzero(zero)
            zero[candidates] = ~words[candidates].any(axis=1)
            offset = 1 if low else 0
            suspects[offset : offset + whole] = zero
        # The page at either end, of which only a part was read.
        if low and len(status):
            suspects[0] = not data[:low].any()
        tail = low + whole * page
        if tail < len(data):
            suspects[-1] = not data[tail:].any()
        indices = np.flatnonzero(suspects)
        if not len(indices):
            return
        first = address // page
        if physical:
            found = coverage.status(first, len(status))[indices]
        elif (pfn := self._direct_map_pfn(address, len(status))) is not None:
            found = coverage.status(pfn, len(status))[indices]
        else:
            found = self._translated_statuses((first + indices.astype(object)) * page)
        status[indices[found == PhysStatus.ZERO_FILLED]] = ReadStatus.ZERO_FILLED

    def _translated_statuses(self, addresses: npt.NDArray[np.object_]) -> Bytes:
        """The coverage of single pages by the kernel's page tables; PRESENT where those do not tell."""
        from drgn.helpers.linux.mm import follow_phys

        assert self._coverage is not None
        found = np.full(len(addresses), PhysStatus.PRESENT, dtype=np.uint8)
        if self._init_mm is None:
            try:
                self._init_mm = self._prog["init_mm"].address_of_().read_()
            except Exception:  # no debug info: cannot be told
                return found
        # Page tables are per page; only pages of zeros in a dump with zero filled parts come here.
        for number, address in enumerate(addresses):
            try:
                physical = follow_phys(self._init_mm, address).value_()
            except Exception:  # noqa: S112  # not mapped, or its page table is not in the dump
                continue
            found[number] = self._coverage.status(physical // self._page_size, 1)[0]
        return found


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs [low, high) of true elements."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
