"""A kernel whose pages have owners, as far as page-owner looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from mmdump.kernel.arrays import printable
from mmdump.kernel.cma import CmaArea
from mmdump.kernel.names import FlagNames
from mmdump.kernel.page import PageRange
from mmdump.kernel.stackdepot import Stack, StackStatus
from mmdump.kernel.zones import Zone
from mmdump.result import Result
from mmdump_page_owner.analysis import PageOwner
from tests.kernel.builders import EXT_LAYOUT, LAYOUT, Kernelish

MIGRATETYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")
GFP_NAMES = FlagNames(
    (
        (0x140CCA, "GFP_HIGHUSER_MOVABLE"),
        (0xCC0, "GFP_KERNEL"),
        (0x08, "__GFP_MOVABLE"),
        (0x100, "__GFP_ZERO"),
    ),
    (1 << 64) - 1,
)


class Depot:
    """A stack depot: the functions of each handle's chain, innermost first."""

    layout = SimpleNamespace(mask=(1 << 27) - 1)

    def __init__(self, chains: Mapping[int, Iterable[str]], broken: Mapping[int, StackStatus]) -> None:
        self._broken = dict(broken)
        self.names: dict[int, str] = {}
        self._chains = {}
        for handle, functions in chains.items():
            self._chains[handle] = tuple(self._address(name) for name in functions)

    def _address(self, name: str) -> int:
        at = 0xFFFFFFFF81000000 + 0x100 * len(self.names)
        self.names[at] = name
        return at

    def stack(self, handle: int) -> Stack:
        if handle in self._broken:
            return Stack(handle, (), self._broken[handle])
        frames = self._chains.get(handle)
        return Stack(handle, frames or (), StackStatus.OK if frames else StackStatus.BAD_HANDLE)


def kernel(
    chains: Mapping[int, Iterable[str]],
    *,
    broken: Mapping[int, StackStatus] | None = None,
    special: Mapping[str, int] | None = None,
    areas: Iterable[CmaArea] = (),
    page_ext: Any = EXT_LAYOUT,
) -> Any:
    """A kernel with these call chains.

    :param special: Values of early_handle, dummy_handle and failure_handle.
    """
    machine = Kernelish()
    for name, value in (special or {}).items():
        machine.constant(name, value, 4)
    depot = Depot(chains, broken or {})

    def text(address: int) -> str:
        name, _, module = depot.names[address].partition(" ")
        return printable(f"{name}+0x10/0x20{module and ' ' + module}".encode())

    return SimpleNamespace(
        target=machine.target,
        page_ext=page_ext,
        page_layout=LAYOUT,
        stack_depot=depot,
        symbols=SimpleNamespace(text=text),
        gfp_names=GFP_NAMES,
        pageblocks=SimpleNamespace(names=MIGRATETYPES),
        zones=[Zone(0, 1, "DMA32", 0, 100, 100), Zone(0, 2, "Normal", 100, 100, 100)],
        cma_areas=list(areas),
    )


def analysed(analysis: PageOwner, of: Any, *ranges: PageRange, state: Any = None) -> Result:
    """The result for some ranges, each a batch of its own, folded once more at the end."""
    state = state or analysis.start(of)
    kept: dict[str, list[pl.DataFrame]] = {}
    for pages in ranges:
        parts = {name: pl.DataFrame(dict(each)) for name, each in analysis.scan(pages, state).items()}
        for name, frame in analysis.batch(parts, state).items():
            kept.setdefault(name, []).append(frame)
    parts = {name: analysis.fold(name, pl.concat(frames)) for name, frames in kept.items()}
    return analysis.finish(of, state, parts)


def rows(result: Result, *columns: str, table: str = "groups") -> list[tuple[object, ...]]:
    """Some columns of a table, as rows."""
    return result.tables[table].frame.select(columns).rows()


def record_members(*without: str) -> Any:
    """page_ext as a kernel has it whose record lacks these members."""
    import dataclasses

    from tests.kernel.builders import EXT_DTYPE, OWNER_DTYPE, STRIDE

    names = [name for name in OWNER_DTYPE.names or () if name not in without]
    fields = OWNER_DTYPE.fields or {}
    record = np.dtype(
        {
            "names": names,
            "formats": [fields[name][0] for name in names],
            "offsets": [fields[name][1] for name in names],
            "itemsize": OWNER_DTYPE.itemsize,
        }
    )
    dtype = np.dtype(
        {
            "names": list(EXT_DTYPE.names or ()),
            "formats": ["<u8", record],
            "offsets": [0, 8],
            "itemsize": STRIDE,
        }
    )
    return dataclasses.replace(EXT_LAYOUT, dtype=dtype)
