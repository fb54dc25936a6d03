"""``/sys/kernel/debug/cma/*/*``: the files of each area and each range (mm/cma_debug.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.arrays import runs
from mmdump.kernel.cma import CmaArea, read_cma_bitmap
from mmdump.kernel.layout import find_object, has_member
from mmdump.kernelfile import KernelFile
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import Bools
    from mmdump.scan import Ranges

__all__ = ["FILES", "longest_clear"]

_DIRECTORY = "/sys/kernel/debug/cma/*/"


def _why_not(kernel: Kernel, *names: str) -> str | None:
    """No CONFIG_CMA_DEBUGFS, no such area, or no such range."""
    prog = kernel.target.prog
    if find_object(prog, "cma_areas") is None:
        return "this kernel was built without CONFIG_CMA"
    # struct cma has the list of what was allocated through these files only with them.
    if not has_member(prog.type("struct cma"), "mem_head"):
        return "this kernel was built without CONFIG_CMA_DEBUGFS"
    # 6.15 gave areas several ranges, and their files a directory.
    if len(names) > 1 and not has_member(prog.type("struct cma"), "ranges"):
        return "areas of this kernel have one range, and no directory of ranges"
    ranges = _ranges_of(kernel, names[0]) if names else []
    if names and not ranges:
        if kernel.cma_garbage:
            return f"there is no CMA area {names[0]} among those that could be read"
        known = ", ".join(dict.fromkeys(area.area for area in kernel.cma_areas))
        return f"there is no CMA area {names[0]}; this kernel has: {known or 'none'}"
    if len(names) > 1 and names[1] not in {str(area.number) for area in ranges}:
        return f"CMA area {names[0]} has no range {names[1]}"
    return None


def _ranges_of(kernel: Kernel, name: str) -> list[CmaArea]:
    """The ranges of the first area of that name: debugfs refuses a second directory of one name."""
    found = [area for area in kernel.cma_areas if area.area == name]
    return [area for area in found if area.index == found[0].index]


def _bitmap(kernel: Kernel, area: CmaArea) -> Bools:
    """One truth value per bit.

    :raises IncompleteError: It is not in the dump.
    """
    allocated = read_cma_bitmap(kernel.target.reader, area)
    if allocated is None:
        raise IncompleteError(f"the bitmap of CMA area {area.name} is not in the dump")
    return allocated[:: 1 << area.order_per_bit]


def longest_clear(allocated: Bools) -> int:
    """The longest run of clear values."""
    first, length = runs(allocated)
    return int(length[~allocated[first]].max(initial=0))


def _used(kernel: Kernel, ranges: Sequence[CmaArea]) -> int:
    """``cma_used_get()``: the bits that are set; since 6.15 what is counted."""
    [available] = {area.available for area in ranges}
    if available is not None:
        return (sum(area.count for area in ranges) - available) & _U64
    return sum(int(_bitmap(kernel, area).sum()) << area.order_per_bit for area in ranges)


def _maxchunk(kernel: Kernel, ranges: Sequence[CmaArea]) -> int:
    """``cma_maxchunk_get()``."""
    return max(longest_clear(_bitmap(kernel, area)) << area.order_per_bit for area in ranges)


_U64 = (1 << 64) - 1

#: Makes the number in a file of an area of its ranges.
_Number = Callable[["Kernel", Sequence[CmaArea]], int]
_Pieces = Callable[..., Iterator[bytes]]


def _number(value: _Number) -> _Pieces:
    """A file of one number."""

    def read(kernel: Kernel, _ranges: Ranges, *names: str) -> Iterator[bytes]:
        yield b"%d\n" % value(kernel, _wanted(kernel, names))

    return read


def _bits(kernel: Kernel, _ranges: Ranges, *names: str) -> Iterator[bytes]:
    """``u32_format_array()``: the bitmap's words, the last with whatever is behind its last bit."""
    area = _wanted(kernel, names)[0]
    words = ((area.count >> area.order_per_bit) + 31) // 32
    chunk = kernel.target.reader.read(area.bitmap, words * 4)
    if (chunk.status != ReadStatus.READ).any():
        raise IncompleteError(f"the bitmap of CMA area {area.name} is not in the dump")
    numbers = np.frombuffer(chunk.data.tobytes(), "<u4").tolist()
    yield (" ".join(map(str, numbers)) + "\n").encode() if numbers else b""


def _wanted(kernel: Kernel, names: Sequence[str]) -> list[CmaArea]:
    """The ranges that a path names.

    :raises UnsupportedError: There are none.
    """
    ranges = _ranges_of(kernel, names[0])
    if len(names) > 1:
        ranges = [area for area in ranges if str(area.number) == names[1]]
    if not ranges:
        raise UnsupportedError(f"there is no CMA area {'/'.join(names)}")
    return ranges


def _base_pfn(_kernel: Kernel, ranges: Sequence[CmaArea]) -> int:
    return ranges[0].base_pfn


def _count(_kernel: Kernel, ranges: Sequence[CmaArea]) -> int:
    return sum(area.count for area in ranges)


def _order_per_bit(_kernel: Kernel, ranges: Sequence[CmaArea]) -> int:
    # The kernel prints 8 bytes of it, the lock behind it among them; nobody holds that while it is read.
    return ranges[0].order_per_bit


FILES = tuple(
    KernelFile(_DIRECTORY + name, summary, read, why_not=_why_not)
    for name, summary, read in (
        ("base_pfn", "first page of a CMA area (of its first range)", _number(_base_pfn)),
        ("bitmap", "what is allocated in a CMA area (in its first range)", _bits),
        ("count", "pages of a CMA area", _number(_count)),
        ("maxchunk", "longest run of pages in a CMA area that are not allocated", _number(_maxchunk)),
        ("order_per_bit", "pages that a bit of the bitmap stands for, as an order", _number(_order_per_bit)),
        ("used", "allocated pages of a CMA area", _number(_used)),
        ("ranges/*/base_pfn", "first page of a range of a CMA area", _number(_base_pfn)),
        ("ranges/*/bitmap", "what is allocated in a range of a CMA area", _bits),
    )
)
