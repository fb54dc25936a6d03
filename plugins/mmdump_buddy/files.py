"""``/proc/buddyinfo`` and ``/sys/kernel/debug/extfrag/*``: what mm/vmstat.c prints of ``nr_free``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mmdump.errors import IncompleteError
from mmdump.kernel.layout import find_object
from mmdump.kernelfile import KernelFile
from mmdump_buddy.index import fragmentation_index, unusable_free_index

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.scan import Ranges

__all__ = ["FILES"]


def _by_zone(line: Callable[[Sequence[int]], str]) -> Callable[[Kernel, Ranges], Iterator[bytes]]:
    """A file with a line for each zone, made of ``nr_free`` by order; no page needs to be read for it."""

    def read(kernel: Kernel, _ranges: Ranges) -> Iterator[bytes]:
        heads = kernel.list_heads
        for zone, nr_free, readable in zip(
            heads.zones, heads.nr_free.tolist(), heads.readable.tolist(), strict=True
        ):
            if not readable:
                raise IncompleteError(
                    f"the free lists of zone {zone.name} of node {zone.node} are not in the dump"
                )
            yield f"Node {zone.node}, zone {zone.name:>8} {line(nr_free)}\n".encode()

    return read


def _frag_show(nr_free: Sequence[int]) -> str:
    """``frag_show_print()``."""
    return "".join(f"{count:6} " for count in nr_free)


def _extfrag_show(nr_free: Sequence[int]) -> str:
    """``extfrag_show_print()``, with C's division: an index of -500 is printed as `` 0.-500``."""
    found = [fragmentation_index(nr_free, order) for order in range(len(nr_free))]
    whole = [int(index / 1000) for index in found]
    return "".join(f"{each:2}.{index - 1000 * each:03} " for index, each in zip(found, whole, strict=True))


def _unusable_show(nr_free: Sequence[int]) -> str:
    """``unusable_show_print()``."""
    found = [unusable_free_index(nr_free, order) for order in range(len(nr_free))]
    return "".join(f"{index // 1000}.{index % 1000:03} " for index in found)


def _no_extfrag(kernel: Kernel) -> str | None:
    if find_object(kernel.target.prog, "sysctl_extfrag_threshold") is None:
        return "this kernel was built without CONFIG_COMPACTION"
    return None


FILES = [
    KernelFile("/proc/buddyinfo", "free blocks of each zone by order", _by_zone(_frag_show)),
    KernelFile(
        "/sys/kernel/debug/extfrag/extfrag_index",
        "why blocks cannot be had: 0 lack of memory, 1 fragmentation",
        _by_zone(_extfrag_show),
        why_not=_no_extfrag,
    ),
    KernelFile(
        "/sys/kernel/debug/extfrag/unusable_index",
        "share of the free memory in blocks that are too small",
        _by_zone(_unusable_show),
        why_not=_no_extfrag,
    ),
]
