"""Which physical pages are really in a dump.

drgn does not tell: it reads zeros where a filtered ELF core has nothing, and a fault on a kdump does not
say which page was missing. So the containers' own tables are kept here as vectorised lookups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BitmapCoverage", "PhysStatus", "PhysicalCoverage", "SegmentCoverage"]

Statuses = npt.NDArray[np.uint8]
#: Bitmap bytes handled at once: what is temporary stays in the cache, however large the dump is.
CHUNK = 1 << 16
POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


class PhysStatus(IntEnum):
    """What a dump has of a physical page, from best to worst."""

    #: The page's contents are in the dump.
    PRESENT = 0
    #: Reads as zeros without an error: either the page was all zeros, or it was filtered out.
    ZERO_FILLED = 1
    #: RAM, but left out by the dump's filter.
    EXCLUDED = 2
    #: Should be in the file, but the file ends before it.
    TRUNCATED = 3
    #: Not RAM: a hole in the physical address space.
    ABSENT = 4


class PhysicalCoverage(ABC):
    """The status of every physical page of a dump.

    :param page_size: Bytes per page, a power of two.
    :param end_pfn: One more than the last PFN the dump knows of.
    """

    def __init__(self, page_size: int, end_pfn: int) -> None:
        self.page_size = page_size
        self.end_pfn = end_pfn

    @property
    @abstractmethod
    def has_zero_filled(self) -> bool:
        """Whether any page is :attr:`PhysStatus.ZERO_FILLED`."""

    @abstractmethod
    def _fill(self, first_pfn: int, out: Statuses) -> None:
        """Write the statuses of ``len(out)`` pages within [0, end_pfn) over ``out`` (ABSENT before)."""

    @abstractmethod
    def _count(self) -> dict[PhysStatus, int]:
        """The number of pages per status, those that are not ABSENT."""

    def status(self, first_pfn: int, count: int) -> Statuses:
        """The statuses of ``count`` pages from ``first_pfn``.

        :return: uint8 array of shape (count,), of :class:`PhysStatus`. PFNs that are negative or past
            the end are ABSENT.
        :raises ValueError: ``count`` is negative
        """
        if count < 0:
            raise ValueError("count is negative")
        out = np.full(count, PhysStatus.ABSENT, dtype=np.uint8)
        low = max(first_pfn, 0)
        high = min(first_pfn + count, self.end_pfn)
        if low < high:
            self._fill(low, out[low - first_pfn : high - first_pfn])
        return out

    def counts(self) -> dict[PhysStatus, int]:
        """The number of pages per status, of all pages below ``end_pfn``: they add up to it."""
        counts = dict.fromkeys(PhysStatus, 0)
        counts.update(self._count())
        counts[PhysStatus.ABSENT] = self.end_pfn - sum(
            number for status, number in counts.items() if status != PhysStatus.ABSENT
        )
        return counts


class SegmentCoverage(PhysicalCoverage):
    """Coverage from byte intervals: the PT_LOAD segments of an ELF core.

    A page that is only partly in an interval has the worst status of its bytes.

    :param intervals: (start, end, status) of physical bytes, sorted and disjoint.
    :param page_size: Bytes per page, a power of two.
    """

    def __init__(self, intervals: Sequence[tuple[int, int, PhysStatus]], page_size: int) -> None:
        # Pages partly past the end of the 64-bit address space are of no use to anyone.
        top = (1 << 64) - page_size
        bounded = [
            (start, min(end, top), status) for start, end, status in intervals if start < min(end, top)
        ]
        starts = np.array([start for start, _, _ in bounded], dtype=np.uint64)
        ends = np.array([end for _, end, _ in bounded], dtype=np.uint64)
        statuses = np.array([status for _, _, status in bounded], dtype=np.uint8)
        self._starts, self._ends, self._statuses = _page_runs(starts, ends, statuses, page_size)
        super().__init__(page_size, int(self._ends[-1]) if len(self._ends) else 0)

    @property
    def has_zero_filled(self) -> bool:
        """Whether a segment is shorter in the file than in memory."""
        return bool((self._statuses == PhysStatus.ZERO_FILLED).any())

    def _fill(self, first_pfn: int, out: Statuses) -> None:
        end_pfn = first_pfn + len(out)
        low = int(np.searchsorted(self._ends, first_pfn, "right"))
        high = int(np.searchsorted(self._starts, end_pfn, "left"))
        for run in range(low, high):
            start = max(int(self._starts[run]), first_pfn) - first_pfn
            end = min(int(self._ends[run]), end_pfn) - first_pfn
            out[start:end] = self._statuses[run]

    def _count(self) -> dict[PhysStatus, int]:
        return {
            status: int((self._ends - self._starts)[self._statuses == status].sum()) for status in PhysStatus
        }


def _page_runs(
    starts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64], statuses: Statuses, page_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Statuses]:
    """Disjoint byte intervals as disjoint sorted runs of PFNs; pages not wholly covered are left out."""
    shift = np.uint64(page_size.bit_length() - 1)
    mask = np.uint64(page_size - 1)
    first = ((starts + mask) >> shift).astype(np.int64)
    last = (ends >> shift).astype(np.int64)
    whole = first < last
    # What sticks out of the whole pages at both ends, and intervals within one page.
    head = ((starts & mask) != 0) | ((starts >> shift) == (ends >> shift))
    head_page = starts >> shift
    head_bytes = np.minimum(ends, (head_page << shift) + np.uint64(page_size)) - starts
    tail = ((ends & mask) != 0) & ~(head & ((ends >> shift) == head_page))
    tail_bytes = ends & mask
    pages = np.concatenate([head_page[head], (ends >> shift)[tail]]).astype(np.int64)
    amounts = np.concatenate([head_bytes[head], tail_bytes[tail]]).astype(np.int64)
    partial, which = np.unique(pages, return_inverse=True)
    covered = np.zeros(len(partial), dtype=np.int64)
    np.add.at(covered, which, amounts)
    worst = np.zeros(len(partial), dtype=np.uint8)
    np.maximum.at(worst, which, np.concatenate([statuses[head], statuses[tail]]))
    complete = covered == page_size
    run_starts = np.concatenate([first[whole], partial[complete]])
    run_ends = np.concatenate([last[whole], partial[complete] + 1])
    run_statuses = np.concatenate([statuses[whole], worst[complete]])
    order = np.argsort(run_starts, kind="stable")
    return run_starts[order], run_ends[order], run_statuses[order]


class BitmapCoverage(PhysicalCoverage):
    """Coverage from the two bitmaps of a kdump file (makedumpfile diskdump_mod.h).

    :param ram: Packed bits, lowest bit first: the page is RAM.
    :param dumped: Packed bits: the page is in the dump.
    :param end_pfn: The number of bits that count.
    :param page_size: Bytes per page.
    :param missing: What a RAM page is that is not dumped: EXCLUDED, or ZERO_FILLED where zero pages
        may be left out in the same way.
    :param truncated: Finds the packed bits of dumped pages whose data is past the end of the file;
        called when a status is asked for, since it reads all the page descriptors.
    """

    def __init__(
        self,
        ram: npt.NDArray[np.uint8],
        dumped: npt.NDArray[np.uint8],
        end_pfn: int,
        page_size: int,
        *,
        missing: PhysStatus = PhysStatus.EXCLUDED,
        truncated: Callable[[], npt.NDArray[np.uint8]] | None = None,
    ) -> None:
        super().__init__(page_size, min(end_pfn, 8 * len(ram), 8 * len(dumped)))
        self._ram = ram
        self._dumped = dumped
        self._missing = missing
        self._find_truncated = truncated

    @cached_property
    def _truncated(self) -> npt.NDArray[np.uint8] | None:
        return None if self._find_truncated is None else self._find_truncated()

    @property
    def has_zero_filled(self) -> bool:
        """Whether a page that is not in the dump may have been left out for being zero."""
        return self._missing == PhysStatus.ZERO_FILLED

    def _fill(self, first_pfn: int, out: Statuses) -> None:
        out[_bits(self._ram, first_pfn, len(out))] = self._missing
        out[_bits(self._dumped, first_pfn, len(out))] = PhysStatus.PRESENT
        if self._truncated is not None:
            out[_bits(self._truncated, first_pfn, len(out))] = PhysStatus.TRUNCATED

    def _count(self) -> dict[PhysStatus, int]:
        totals = dict.fromkeys((PhysStatus.PRESENT, self._missing, PhysStatus.TRUNCATED), 0)
        for start in range(0, (self.end_pfn + 7) // 8, CHUNK):
            length = min(CHUNK, (self.end_pfn + 7) // 8 - start)
            keep = np.full(length, 0xFF, dtype=np.uint8)
            if (start + length) * 8 > self.end_pfn:
                keep[-1] = (1 << (self.end_pfn & 7)) - 1
            dumped = self._dumped[start : start + length] & keep
            missing = self._ram[start : start + length] & keep & ~dumped
            totals[PhysStatus.PRESENT] += popcount(dumped)
            totals[self._missing] += popcount(missing)
            if self._truncated is not None:
                totals[PhysStatus.TRUNCATED] += popcount(self._truncated[start : start + length] & keep)
        totals[PhysStatus.PRESENT] -= totals[PhysStatus.TRUNCATED]
        return totals


def _bits(packed: npt.NDArray[np.uint8], first: int, count: int) -> npt.NDArray[np.bool_]:
    """Bits [first, first + count) of a packed array, as booleans."""
    start = first // 8
    unpacked: npt.NDArray[Any] = np.unpackbits(packed[start : (first + count + 7) // 8], bitorder="little")
    return unpacked[first - 8 * start :][:count].view(np.bool_)


def popcount(packed: npt.NDArray[np.uint8]) -> int:
    """The number of bits set."""
    return int(POPCOUNT[packed].sum(dtype=np.int64))
