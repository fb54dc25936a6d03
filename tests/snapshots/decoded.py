"""What mmdump decodes of an image beside what the machine knows, for tests that they are the same.

What is expected is computed from the model's columns and its truth, never from what the writer made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmdump.kernel import Kernel
from mmdump.kernel.page import PageRange
from mmdump.kernelfile import find_kernel_file
from mmdump.plugins import Plugins, load_plugins
from mmdump.result import Result
from mmdump.scan import Ranges, run_one
from mmdump_snapshots.kernels import Profile
from mmdump_snapshots.kernels.gfp import mask
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.writer.image import Image, build

__all__ = ["MIGRATETYPE_NAMES", "Decoded", "Part", "equal", "same_frames"]

#: ``migratetype_names``.
MIGRATETYPE_NAMES = {
    Migratetype.UNMOVABLE: "Unmovable",
    Migratetype.MOVABLE: "Movable",
    Migratetype.RECLAIMABLE: "Reclaimable",
    Migratetype.HIGHATOMIC: "HighAtomic",
    Migratetype.CMA: "CMA",
    Migratetype.ISOLATE: "Isolate",
}


@cache
def plugins() -> Plugins:
    return load_plugins(disabled=["*"])


@dataclass
class Part:
    """A range of pages, and the rows of it that are memory.

    :ivar rows: Row numbers in the range.
    :ivar pfn: Their PFNs.
    """

    pages: PageRange
    rows: NDArray[np.int64]
    pfn: NDArray[np.int64]


class Decoded:
    """A machine, its image under a kernel, and mmdump on that."""

    def __init__(self, machine: Machine, profile: Profile, seed: int | None = None) -> None:
        self.machine = machine
        self.profile = profile
        self.era = machine.era
        self.truth = Truth.of(machine)
        self.image: Image = build(machine, profile, kaslr=seed)
        self.kernel = Kernel(self.image.target(), plugins().page_ext_clients())

    def analysis(self, name: str) -> Result:
        return run_one(self.kernel, plugins().analyses()[name]())

    def file(self, name: str) -> bytes:
        """One of the kernel's files, as ``mmdump cat`` prints it."""
        found = find_kernel_file(plugins().kernel_files(), name)
        return b"".join(found.read(self.kernel, Ranges(self.kernel, ext=found.ext)))

    @cached_property
    def parts(self) -> list[Part]:
        """All pages that have a ``struct page``."""
        ext = self.kernel.page_ext.dtype is not None
        return [self._part(*chunk, ext=ext) for chunk in self.kernel.memmap.chunks()]

    def _part(self, start: int, end: int, *, ext: bool) -> Part:
        inside = np.zeros(end - start, bool)
        for low, high in self.machine.ram:
            inside[max(low - start, 0) : max(high - start, 0)] = True
        rows = np.flatnonzero(inside)
        return Part(self.kernel.pages(start, end, ext=ext), rows, rows + start)

    @cached_property
    def handle_mask(self) -> int:
        """The bits of a handle that name a stack."""
        return (1 << sum(self.era.depot_handle_bits[:3])) - 1

    def gfp(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        """The model's gfp masks as this kernel numbers them."""
        distinct, which = np.unique(values, return_inverse=True)
        found = [self._gfp(int(value)) for value in distinct]
        return np.array(found, np.uint32)[which]

    def _gfp(self, value: int) -> int:
        version = self.profile.version
        names = [str(flag.name) for flag in Gfp if flag & (flag - 1) == 0 and flag & value]
        # Up to 6.3 whoever may use reserves and not sleep has a bit for that.
        if "HIGH" in names and "DIRECT_RECLAIM" not in names:
            names.append("ATOMIC")
        return mask(version, [f"__GFP_{name}" for name in names])

    def migratetype(self, pfn: NDArray[np.int64]) -> NDArray[np.str_]:
        """Names of the migratetypes of these pages' blocks."""
        names = np.array([MIGRATETYPE_NAMES[Migratetype(number)] for number in range(len(Migratetype))])
        block = pfn >> self.era.pageblock_order
        return np.where(
            self.machine.isolated[block],
            MIGRATETYPE_NAMES[Migratetype.ISOLATE],
            names[self.machine.migratetype[block]],
        )

    def zone_names(self, pfn: NDArray[np.int64]) -> NDArray[np.str_]:
        """Names of these pages' zones."""
        found = np.full(len(pfn), "", "U16")
        for zone in self.machine.zones:
            found[(pfn >= zone.start_pfn) & (pfn < zone.start_pfn + zone.spanned)] = zone.name
        return found

    def nodes(self, pfn: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.zeros(len(pfn), np.int64)
        for zone in self.machine.zones:
            found[(pfn >= zone.start_pfn) & (pfn < zone.start_pfn + zone.spanned)] = zone.node
        return found

    def page_columns(self) -> Iterator[tuple[Part, NDArray[np.int64]]]:
        """Parts, and the heads of each page."""
        for part in self.parts:
            yield part, part.pfn - self.machine.pages.tail[part.pfn].astype(np.int64)


def equal(what: str, found: NDArray[Any], expected: NDArray[Any], pfn: NDArray[np.int64]) -> None:
    """Every row the same; or else the first that are not, by their PFN."""
    assert found.shape == expected.shape, what
    wrong = np.flatnonzero(found != expected)
    assert not len(wrong), (
        f"{what} of {len(wrong)} pages, first PFN, found, expected: "
        f"{[(int(pfn[row]), found[row], expected[row]) for row in wrong[:3]]}"
    )


def same_frames(printed: list[str], frames: tuple[str, ...]) -> bool:
    """Whether a printed call chain is the machine's: by name, and by offset where that has one."""
    if len(printed) != len(frames):
        return False
    for text, frame in zip(printed, frames, strict=True):
        place = text.partition("/")[0]
        if (place if "+" in frame else place.partition("+")[0]) != frame:
            return False
    return True
