"""page_ext with its clients, CMA areas and free page reporting: what hangs beside the page array."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.pages import field_dtype
from mmdump_snapshots.writer.sections import section_order
from mmdump_snapshots.writer.state import CHUNK, CmaState, State

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.writer.arena import Arena, Struct

__all__ = ["ExtWriter", "write_cma", "write_page_ext", "write_reporting", "write_switches"]


class ExtWriter:
    """Lays out page_ext entries in bulk.

    :param tags: Address of the tag that each reference of the state means, uint64; of 0 that is 0.
    """

    def __init__(self, profile: Profile, state: State, tags: NDArray[np.uint64]) -> None:
        assert state.page_ext is not None
        types = profile.types
        self.stride = state.page_ext.stride
        self._state = state
        self._has_flags = state.page_ext.has_flags
        bits = types.enumerators("enum page_ext_flags")
        self._flags = [
            (np.uint64(1 << bit), np.uint64(1 << bits[f"PAGE_EXT_{name}"]))
            for bit, name in enumerate(state.ext_flags)
            if f"PAGE_EXT_{name}" in bits
        ]
        self._tags = state.page_ext.clients.get("page_alloc_tagging")
        self._tag_address = tags
        self._members: dict[str, tuple[int, np.dtype[Any]]] = {}
        place = state.page_ext.clients.get("page_owner")
        if place is not None:
            for member in types["struct page_owner"].members:
                assert member.name is not None
                if member.type.bare.kind == "array":
                    offset, dtype = member.offset, np.dtype(f"S{member.type.size}")
                else:
                    offset, dtype = field_dtype(types, "struct page_owner", member.name)
                self._members[member.name] = (place[0] + offset, dtype)
        self._pinner: dict[str, tuple[int, np.dtype[Any]]] = {}
        place = state.page_ext.clients.get("page_pinner")
        if place is not None and place[1]:
            for name in ("handle", "ts_usec", "count"):
                path = f"{name}.counter" if name == "count" else name
                offset, dtype = field_dtype(types, "struct page_pinner", path)
                self._pinner[name] = (place[0] + offset, dtype)

    def entries(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The entries of the pages [start, stop), uint8."""
        raw = np.zeros((stop - start) * self.stride, np.uint8)
        refs = self._state.tag_refs(start, stop) if self._tags is not None else None
        if refs is not None and self._tags is not None:
            self._view(raw, self._tags[0], np.dtype("<u8"))[:] = self._tag_address[refs]
        owners = self._state.owners(start, stop)
        if owners is None:
            return raw
        for name, (offset, dtype) in self._members.items():
            if name in owners.members:
                self._view(raw, offset, dtype)[:] = owners.members[name]
        for name, (offset, dtype) in self._pinner.items():
            if name in owners.pinner:
                self._view(raw, offset, dtype)[:] = owners.pinner[name]
        if self._has_flags or self._pinner:
            # Android's page pinner sets flags also where entries have no word for them (6.3 and newer).
            words = self._view(raw, 0, np.dtype("<u8"))
            for theirs, ours in self._flags:
                words |= np.where((owners.flags & theirs) != 0, ours, np.uint64(0))
        return raw

    def _view(self, raw: NDArray[np.uint8], offset: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.ndarray((len(raw) // self.stride,), dtype, raw.data, offset, (self.stride,))


def write_page_ext(arena: Arena, state: State, tags: NDArray[np.uint64]) -> None:
    """Write page_ext's tables (when they are read), and the variables of its clients.

    :param tags: Addresses of the allocation tags by reference.
    """
    ext, types = state.page_ext, arena.profile.types
    if ext is None:
        # Up to 6.2 the size began as that of the flags word, also where nobody wanted page_ext.
        if "struct page_ext" in types and not types.has("struct page_ext_operations", "need_shared_flags"):
            arena.maybe("page_ext_size", types.sizeof("struct page_ext"))
        return
    # 5.4; before, what clients want beyond the flags word.
    if not arena.maybe("page_ext_size", ext.stride):
        arena.maybe("extra_mem", max(ext.stride - types.sizeof("struct page_ext"), 0))
    for client, (offset, size) in ext.clients.items():
        if arena.has(f"{client}_ops"):
            ops = arena.variable(f"{client}_ops")
            ops.set("offset", offset)
            ops.set("size", size)
            ops.maybe("need_shared_flags", int(client in state.shared_flags))
            arena.store(ops)
    if not ext.stride or not ext.tables:
        return
    writer = ExtWriter(arena.profile, state, tags)
    order = section_order(arena.profile)
    for number, address in ext.tables.items():
        start = number << order
        # A section that begins or ends in a hole has entries for all of it.
        arena.memory.write_lazy(
            arena.addresses.phys(address), ext.stride << order, partial(_entries, writer, start)
        )


def write_switches(arena: Arena, state: State) -> None:
    """What the command line switched on."""
    for key in state.switches:
        if arena.has(key):
            switch_on(arena, key)
    # The early parameter itself (in memory that was freed after boot since 5.19).
    on = "page_owner_inited" in state.switches
    arena.maybe("page_owner_enabled", int(on))
    arena.maybe("page_owner_disabled", int(not on))  # up to 5.3


def switch_on(arena: Arena, key: str) -> None:
    """``static_branch_enable()``: a static key's count becomes 1. Some switches were a bool before."""
    if arena.type(key).bare.kind == "bool":
        arena.set(key, 1)
        return
    struct = arena.variable(key)
    struct.set("key.enabled.counter", 1)
    arena.store(struct)


def _entries(writer: ExtWriter, first: int, offset: int, size: int) -> NDArray[np.uint8]:
    """Bytes [offset, offset + size) of the table whose first entry is of PFN ``first``."""
    start, stop = first + offset // writer.stride, first - (-(offset + size) // writer.stride)
    parts = []
    position = start
    while position < stop:
        end = min(stop, (position // CHUNK + 1) * CHUNK)
        parts.append(writer.entries(position, end))
        position = end
    skip = offset - (start - first) * writer.stride
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[skip : skip + size]


def write_cma(arena: Arena, state: State) -> None:
    """``cma_areas`` (mm/cma.c)."""
    if not arena.has("cma_areas"):
        return
    length = arena.type("cma_areas").length or 0
    arena.set("cma_area_count", min(len(state.cma), length))
    for index, area in enumerate(state.cma[:length]):
        struct = arena.variable("cma_areas", index=index)
        _cma(arena, struct, area)
        arena.store(struct)


def _cma(arena: Arena, struct: Struct, area: CmaState) -> None:
    total = sum(count for _, count in area.ranges)
    bitmaps = [arena.place(_bitmap(allocated), 8) for allocated in area.allocated]
    if not struct.maybe("nranges", len(area.ranges)):
        struct.set("base_pfn", area.ranges[0][0])
        struct.set("bitmap", bitmaps[0])
    for number, ((base, count), bitmap) in enumerate(zip(area.ranges, bitmaps, strict=True)):
        # 6.15: several ranges, each with a bitmap.
        if struct.maybe(f"ranges[{number}].base_pfn", base):
            struct.set(f"ranges[{number}].count", count)
            struct.set(f"ranges[{number}].bitmap", bitmap)
    struct.set("count", total)
    free = sum(int((~allocated).sum()) << area.order_per_bit for allocated in area.allocated)
    struct.maybe("available_count", free)
    struct.maybe("nr_pages_succeeded.counter", area.succeeded)
    struct.maybe("nr_pages_failed.counter", area.failed)
    # CMA_ZONES_VALID, CMA_ACTIVATED.
    struct.maybe("flags", 1 << 1 | 1 << 3)
    struct.set("order_per_bit", area.order_per_bit)
    name = arena.profile.types.member("struct cma", "name").type.bare
    if name.kind == "array":
        struct.set("name", area.name.encode()[: name.size - 1])
    else:
        struct.set("name", arena.string(area.name))


def _bitmap(bits: NDArray[np.bool_]) -> bytes:
    raw = np.packbits(bits, bitorder="little").tobytes()
    return raw + b"\0" * (-len(raw) % 8)


def write_reporting(arena: Arena, state: State) -> None:
    """Free page reporting: the device that is registered, and its state (mm/page_reporting.c)."""
    reporting = state.reporting
    if not arena.has("pr_dev_info"):
        return
    # Unset it was MAX_ORDER up to 6.1, then as good as -1.
    unset = -1 if arena.profile.version >= (6, 2) else arena.profile.era.max_order + 1
    arena.maybe("page_reporting_order", unset if reporting.order is None else reporting.order)
    if reporting.enabled and arena.has("page_reporting_enabled"):
        switch_on(arena, "page_reporting_enabled")
    if reporting.state is None:
        return
    device = arena.struct("struct page_reporting_dev_info")
    device.set("state.counter", reporting.state)
    device.maybe("order", reporting.device_order)
    device.maybe("capacity", reporting.capacity)
    arena.set("pr_dev_info", arena.finish(device))
