"""Physical memory of a machine that was never there: mostly zeros, with extents of data in it.

What is large is kept as the arrays it was written as, or as functions that make its bytes when they are
wanted, so that the memory of a large machine is never held as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "Bump", "Bytes", "Lazy", "NotRamError", "PhysicalMemory"]

#: Bytes given out at a time by what streams: small enough to stay in a cache.
CHUNK = 4 << 20
#: Writes below this size are copied into blocks of it; larger arrays are kept as they are.
BLOCK = 64 << 10

Bytes = NDArray[np.uint8]
#: Makes bytes [offset, offset + size) of an extent: shape (size,), uint8. Called any number of times.
Lazy = Callable[[int, int], Bytes]


class NotRamError(LookupError):
    """There is no RAM at a physical address.

    :ivar address: The first byte that is missing.
    """

    def __init__(self, address: int) -> None:
        super().__init__(f"no RAM at physical address {address:#x}")
        self.address = address


class Bump:
    """Hands out a range of addresses from its start, never taking any back.

    :ivar position: The first address not given out.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.position = start

    def __call__(self, size: int, align: int = 64) -> int:
        """The address of ``size`` bytes, a multiple of ``align`` (a power of two).

        :raises MemoryError: the range is used up
        """
        address = -(-self.position // align) * align
        if address + size > self.end:
            raise MemoryError(f"{size} bytes do not fit between {address:#x} and {self.end:#x}")
        self.position = address + size
        return address


@dataclass(slots=True)
class _Extent:
    """Bytes [start, end): an array, or a function with what it calls ``start``."""

    start: int
    end: int
    data: Bytes | None
    lazy: Lazy | None = None
    skip: int = 0
    owned: bool = False

    def part(self, start: int, end: int) -> Bytes:
        if self.data is not None:
            return self.data[start - self.start : end - self.start]
        assert self.lazy is not None
        made = self.lazy(self.skip + start - self.start, end - start)
        if made.dtype != np.uint8 or made.shape != (end - start,):
            raise ValueError(
                f"a lazy extent made {made.dtype} of shape {made.shape}, not {end - start} bytes"
            )
        return made

    def cut(self, start: int, end: int) -> _Extent:
        data = None if self.data is None else self.part(start, end)
        return _Extent(start, end, data, self.lazy, self.skip + start - self.start, self.owned)


class PhysicalMemory:
    """RAM with sparse contents; what was never written is zero.

    :param ram: (start, end) of physical addresses that are RAM; need not be sorted, must not overlap.
    :ivar ram: The same, sorted, adjacent ones joined.
    """

    def __init__(self, ram: Sequence[tuple[int, int]]) -> None:
        joined: list[tuple[int, int]] = []
        for start, end in sorted(ram):
            if not 0 <= start < end or (joined and start < joined[-1][1]):
                raise ValueError(f"RAM from {start:#x} to {end:#x} is empty or overlaps")
            if joined and start == joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self.ram = tuple(joined)
        self._ram_starts = [start for start, _ in joined]
        self._starts: list[int] = []
        self._extents: list[_Extent] = []

    @property
    def end(self) -> int:
        """One more than the highest address that is RAM."""
        return self.ram[-1][1] if self.ram else 0

    def write(self, phys: int, data: bytes | bytearray | memoryview | NDArray[np.generic]) -> None:
        """Put bytes at a physical address; they replace what was there.

        An array of :data:`BLOCK` bytes or more is kept without a copy: it must not change any more.
        It is never changed from here either.

        :param data: Arrays of any dtype are taken as their bytes.
        :raises NotRamError: not all of it is RAM; nothing was written then
        """
        if isinstance(data, np.ndarray):
            raw: Bytes = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        else:
            raw = np.frombuffer(data, np.uint8)
        self._ram_of(phys, len(raw))
        if len(raw) >= BLOCK:
            raw = raw if isinstance(data, np.ndarray | bytes) else raw.copy()
            self._insert(_Extent(phys, phys + len(raw), raw))
            return
        done = 0
        while done < len(raw):
            block = self._block(phys + done)
            assert block.data is not None
            size = min(block.end - phys - done, len(raw) - done)
            first = phys + done - block.start
            block.data[first : first + size] = raw[done : done + size]
            done += size

    def write_lazy(self, phys: int, size: int, make: Lazy) -> None:
        """Put bytes at a physical address that are made when they are read, piece by piece.

        :param make: See :data:`Lazy`.
        :raises NotRamError: not all of it is RAM
        """
        self._ram_of(phys, size)
        if size:
            self._insert(_Extent(phys, phys + size, None, make))

    def read(self, phys: int, size: int) -> bytes:
        """Bytes at a physical address.

        :raises NotRamError: not all of it is RAM
        """
        return self.array(phys, size).tobytes()

    def array(self, phys: int, size: int) -> Bytes:
        """Bytes at a physical address, as an array of shape (size,) that must not be written to.

        :raises NotRamError: not all of it is RAM
        """
        self._ram_of(phys, size)
        number = self._at(phys)
        if number < len(self._extents):
            extent = self._extents[number]
            if extent.start <= phys and phys + size <= extent.end:
                return extent.part(phys, phys + size)
        out = np.zeros(size, np.uint8)
        for start, part in self.extents(phys, phys + size):
            out[start - phys : start - phys + len(part)] = part
        return out

    def is_empty(self, start: int, end: int) -> bool:
        """Whether nothing was written to [start, end)."""
        number = self._at(start)
        return number >= len(self._extents) or self._starts[number] >= end

    def extents(
        self, start: int = 0, end: int | None = None, chunk: int = CHUNK
    ) -> Iterator[tuple[int, Bytes]]:
        """(physical address, bytes) of what was written, in order, at most ``chunk`` bytes each."""
        end = self.end if end is None else end
        number = self._at(start)
        while number < len(self._extents) and self._starts[number] < end:
            extent = self._extents[number]
            position, stop = max(extent.start, start), min(extent.end, end)
            while position < stop:
                after = min(stop, (position // chunk + 1) * chunk)
                yield position, extent.part(position, after)
                position = after
            number += 1

    def windows(self, size: int) -> Iterator[tuple[int, int, Bytes | None]]:
        """(start, end, bytes) of all RAM, in pieces up to multiples of ``size``; ``None`` where untouched."""
        for first, last in self.ram:
            position = first
            while position < last:
                after = min(last, (position // size + 1) * size)
                yield (
                    position,
                    after,
                    None if self.is_empty(position, after) else self.array(position, after - position),
                )
                position = after

    def is_ram(self, phys: int, size: int = 1) -> bool:
        """Whether all of [phys, phys + size) is RAM."""
        try:
            self._ram_of(phys, size)
        except NotRamError:
            return False
        return True

    def _ram_of(self, phys: int, size: int) -> tuple[int, int]:
        """The range of RAM that has all of [phys, phys + size)."""
        number = bisect_right(self._ram_starts, phys) - 1
        if number < 0 or phys >= self.ram[number][1]:
            raise NotRamError(phys)
        if phys + size > self.ram[number][1]:
            raise NotRamError(self.ram[number][1])
        return self.ram[number]

    def _at(self, phys: int) -> int:
        """The number of the first extent that ends after ``phys``."""
        number = bisect_right(self._starts, phys)
        return number - 1 if number and self._extents[number - 1].end > phys else number

    def _insert(self, new: _Extent) -> None:
        """Put an extent in place of all that was there."""
        low = high = self._at(new.start)
        parts = [new]
        while high < len(self._extents) and self._starts[high] < new.end:
            old = self._extents[high]
            if old.start < new.start:
                parts.insert(0, old.cut(old.start, new.start))
            if old.end > new.end:
                parts.append(old.cut(new.end, old.end))
            high += 1
        self._extents[low:high] = parts
        self._starts[low:high] = [part.start for part in parts]

    def _block(self, phys: int) -> _Extent:
        """The extent at an address, as an array of our own that can be written to."""
        number = self._at(phys)
        if number < len(self._extents):
            extent = self._extents[number]
            if extent.start <= phys and extent.owned:
                return extent
        low, high = self._ram_of(phys, 1)
        start = max(low, phys // BLOCK * BLOCK)
        end = min(high, (phys // BLOCK + 1) * BLOCK)
        block = _Extent(start, end, np.array(self.array(start, end - start)), owned=True)
        self._insert(block)
        return block
