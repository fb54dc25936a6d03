"""The state of a modelled machine, in the terms of the writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.model.android_pinner import AndroidPinner
from mmdump_snapshots.model.pages import ExtFlag, PageFlag, PageType
from mmdump_snapshots.model.zone import ZONE_NAMES, Migratetype
from mmdump_snapshots.writer.gfp import translated
from mmdump_snapshots.writer.modelfolios import folio_states
from mmdump_snapshots.writer.modelparts import (
    cma_states,
    depot_state,
    direct_io_states,
    pinner_state,
    pipe_states,
    reporting_state,
    slab_states,
    trace_state,
)
from mmdump_snapshots.writer.state import (
    LRU_LISTS,
    MIGRATETYPES,
    CmaState,
    DepotState,
    Folios,
    NodeState,
    OwnerColumns,
    PageColumns,
    PageExtState,
    PinnerState,
    ReportingState,
    State,
    TaskState,
    ZoneState,
)
from mmdump_snapshots.writer.tagstate import SlabState, TagState
from mmdump_snapshots.writer.tracestate import TraceState

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.model.machine import Machine
    from mmdump_snapshots.model.zone import Node, Zone
    from mmdump_snapshots.writer.addresses import AddressSpace

__all__ = ["ModelState"]

#: What prep_compound_tail() puts into a tail's ``mapping``: POISON_POINTER_DELTA plus 0x400.
_TAIL_MAPPING = 0xDEAD000000000400

#: Members of ``struct page_owner`` that are columns of the model's, by the model's names.
_OWNER_MEMBERS = {
    "order": "order",
    "handle": "handle",
    "free_handle": "free_handle",
    "ts_nsec": "ts",
    "free_ts_nsec": "free_ts",
    "pid": "pid",
    "tgid": "tgid",
    "free_pid": "free_pid",
    "free_tgid": "free_tgid",
}


class ModelState(State):
    """What a :class:`~mmdump_snapshots.model.Machine` knows, as the writer asks for it.

    :param resolve: The run-time address of a frame of a stack, such as ``alloc_pages+0x1f0``.
    """

    page_flags = tuple(str(flag.name).lower() for flag in PageFlag)
    page_types = tuple(kind.name.lower() for kind in PageType)
    ext_flags = tuple(str(flag.name) for flag in ExtFlag)

    def __init__(
        self, machine: Machine, profile: Profile, addresses: AddressSpace, resolve: Callable[[str], int]
    ) -> None:
        self._machine = machine
        self._profile = profile
        self._addresses = addresses
        self._resolve = resolve
        self.page_shift = machine.era.page_shift
        self.ram = tuple(machine.ram)
        self.reserved = (machine.reserved,)
        self.cpus = machine.cpus
        self.clock = machine.clock.now
        self.zone_names = tuple(dict.fromkeys(zone.name for zone in machine.zones))
        self.nodes = [self._node(node) for node in machine.nodes]
        self.tasks = [TaskState(task.comm, task.pid, task.tgid) for task in machine.tasks]
        self.pipes = pipe_states(machine)
        self.direct_io = direct_io_states(machine)
        boot = machine.boot
        tags = machine.alloc_tags
        if tags is not None:
            self.tags = TagState(tags.functions, tags.bytes, tags.calls, boot.mem_profiling_compressed)
        self.switches = frozenset(
            name
            for name, on in {
                "page_owner_inited": machine.page_owner is not None and boot.page_owner,
                "mem_alloc_profiling_key": machine.alloc_tags is not None,
                "mem_profiling_compressed": machine.alloc_tags is not None and boot.mem_profiling_compressed,
                "page_pinner_inited": machine.page_pinner is not None and boot.page_pinner,
                "page_pin_owner_inited": machine.page_pinner is not None and boot.page_pinner,
                "page_table_check_disabled": not boot.page_table_check,
                "_debug_pagealloc_enabled": boot.debug_pagealloc,
                "_debug_guardpage_enabled": boot.debug_pagealloc and boot.guard_order > 0,
            }.items()
            if on
        )

    # Pages

    def pages(self, start: int, stop: int) -> PageColumns:
        """The model's columns, with the order of free blocks in ``private`` and poison in tails."""
        pages = self._machine.pages
        rows = slice(start, min(stop, pages.count))
        missing = stop - start - (rows.stop - rows.start)

        def column(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
            part = values[rows].astype(dtype)
            return part if not missing else np.concatenate([part, np.zeros(missing, dtype)])

        outside = self._outside(start, stop)
        kind = column(pages.type, np.uint8)
        order = column(pages.order, np.uint64)
        tail = column(pages.tail, np.uint32)
        mapping = column(pages.mapping, np.uint64)
        tagged = mapping != 0
        base = np.uint64(self._addresses.direct(0))
        mapping[tagged] += base
        private = column(pages.private, np.uint64)
        free = (kind == PageType.BUDDY) | (kind == PageType.GUARD)
        if self._machine.era.guard_pages_in_page_ext:
            # No type, but an order all the same.
            free |= column(self._machine.page_ext.flags, np.uint8) & np.uint8(ExtFlag.DEBUG_GUARD) != 0
        private[free] = order[free]
        head_order = np.zeros(stop - start, np.uint8)
        is_tail = np.flatnonzero(tail)
        if len(is_tail):
            mapping[is_tail] = _TAIL_MAPPING
            head_order[is_tail] = pages.order[start + is_tail - tail[is_tail].astype(np.int64)]
        flags = column(pages.flags, np.uint64)
        flags[outside] = PageFlag.RESERVED
        refcount = column(pages.refcount, np.int32)
        refcount[outside] = 1
        zone, node = self._zone_column(start, stop)
        return PageColumns(
            start=start,
            flags=flags,
            zone=zone,
            node=node,
            type=kind,
            refcount=refcount,
            mapcount=column(pages.mapcount, np.int32),
            tail=tail,
            head_order=head_order,
            mapping=mapping,
            index=self._index(start, stop, column(pages.index, np.uint64)),
            private=private,
        )

    def _outside(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Pages that are not memory but have a struct page: reserved, ``init_unavailable_range()``."""
        outside = np.ones(stop - start, np.bool_)
        for low, high in self.ram:
            outside[max(low - start, 0) : max(high - start, 0)] = False
        return outside

    def _zone_column(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Zone and node of every page; holes in a zone are of that zone.

        A hole between zones is of the zone after it, one at the end of the last zone, ``memmap_init()``
        (5.12). From 5.6 on they were of zone 0 of node 0. Before, nothing but zeros was in their pages at the
        end of the last section, which here are reserved like the others.
        """
        zone = np.zeros(stop - start, np.uint8)
        node = np.zeros(stop - start, np.uint8)
        zones = sorted(
            ((part.start_pfn, part.spanned, number, part.name)
             for number, each in enumerate(self.nodes) for part in each.zones)
        )  # fmt: skip
        holes = self._profile.version >= (5, 12)
        before = 0
        for first, spanned, number, name in zones:
            last = first + spanned
            low = max(before if holes else first, start)
            high = stop if holes and first == zones[-1][0] else min(last, stop)
            if low < high:
                zone[low - start : high - start] = self.zone_names.index(name)
                node[low - start : high - start] = number
            before = last
        return zone, node

    def _index(self, start: int, stop: int, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """``index``; pages on a per-CPU list have the list's migratetype there (up to 6.9)."""
        if self._profile.version < (6, 10):
            pfns, types = self._pcp_types
            low, high = np.searchsorted(pfns, (start, stop))
            index[pfns[low:high] - start] = types[low:high]
        return index

    @cached_property
    def _pcp_types(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        pfns: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        types: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        for node in self.nodes:
            for zone in node.zones:
                for lists in zone.pcp:
                    for index, each in enumerate(lists):
                        pfns.append(each)
                        types.append(np.full(len(each), index % self._machine.era.pcp_types, np.uint64))
        joined = np.concatenate(pfns)
        order = np.argsort(joined)
        return joined[order], np.concatenate(types)[order]

    def folios(self, start: int, stop: int) -> Folios:
        """The model's folios with their counts."""
        return folio_states(self._machine, start, stop)

    # Beside the pages

    def pageblocks(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The model numbers migratetypes as the writer does, by name."""
        machine = self._machine
        order = machine.era.pageblock_order
        count = (stop - start) >> order
        rows = slice(start >> order, (start >> order) + count)
        types = np.zeros(count, np.uint8)
        isolated = np.zeros(count, np.bool_)
        part = self._migratetype[machine.migratetype[rows]]
        types[: len(part)] = part
        isolated[: len(part)] = machine.isolated[rows]
        return types, isolated

    @cached_property
    def _migratetype(self) -> NDArray[np.uint8]:
        """The model's numbers of migratetypes -> :data:`MIGRATETYPES`."""
        table = np.zeros(max(Migratetype) + 1, np.uint8)
        for each in Migratetype:
            table[each] = MIGRATETYPES.index(each.name)
        return table

    @property
    def batches(self) -> Mapping[str, Sequence[Sequence[int]]]:  # type: ignore[override]
        """Folios that wait in per-CPU batches."""
        model = self._machine.batches
        # mlock_lru(), mlock_new(): what is known of a folio is in the low bits of its pointer.
        return {
            "lru_add": [[pfn << 2 for pfn in cpu] for cpu in model.lru_add],
            "mlock": [[pfn << 2 | (1 if lru else 2) for pfn, lru in cpu] for cpu in model.mlock],
        }

    def _node(self, node: Node) -> NodeState:
        zones = [self._zone(zone) for zone in node.zones]
        start = min(zone.start_pfn for zone in zones)
        end = max(zone.start_pfn + zone.spanned for zone in zones)
        lru = {name: node.lru[name.lower()].array() for name in LRU_LISTS}
        machine = self._machine
        queue = _pfns(
            [pfn for pfn in machine.rmap.deferred_split if machine.node_of(pfn).number == node.number]
        )
        present = sum(zone.present for zone in zones)
        return NodeState(node.number, start, end - start, present, zones, lru, queue)

    def _zone(self, zone: Zone) -> ZoneState:
        return ZoneState(
            name=zone.name,
            start_pfn=zone.start_pfn,
            spanned=zone.spanned,
            present=zone.present,
            managed=zone.managed,
            watermarks=zone.watermark,
            free=[
                {kind.name: area.free_list[kind].array() for kind in Migratetype if len(area.free_list[kind])}
                for area in zone.free_area
            ],
            pcp=[[_pfns(pfns) for pfns in cpu.lists] for cpu in zone.pcp],
            lowmem_reserve=dict(zip(ZONE_NAMES, zone.lowmem_reserve, strict=True)),
            nr_reserved_highatomic=zone.nr_reserved_highatomic,
        )

    @cached_property
    def page_ext(self) -> PageExtState | None:  # type: ignore[override]
        """None where no client needs page_ext: there is no memory for it then."""
        ext = self._machine.page_ext
        if not ext.tables:
            return None
        sizes = {client.name: client.size for client in ext.clients}
        return PageExtState(
            ext.stride,
            ext.has_flags,
            {name: (offset, sizes[name]) for name, offset in ext.offsets.items()},
            {number: self._addresses.direct(phys) for number, phys in ext.tables.items()},
        )

    def owners(self, start: int, stop: int) -> OwnerColumns | None:
        """Flags and page_owner records."""
        machine = self._machine
        count = machine.pages.count
        rows = slice(min(start, count), min(stop, count))
        missing = stop - start - (rows.stop - rows.start)

        def column(values: NDArray[Any]) -> NDArray[Any]:
            part = values[rows]
            return part if not missing else np.concatenate([part, np.zeros(missing, values.dtype)])

        if not self._is_owned(rows):
            return None
        flags = column(machine.page_ext.flags).astype(np.uint64)
        pinned = {}
        if isinstance(machine.page_pinner, AndroidPinner):
            pinned = {name: column(values) for name, values in vars(machine.page_pinner.records).items()}
        if machine.page_owner is None:
            return OwnerColumns(flags, {}, pinned)
        owners = machine.page_owner.owners
        members = {name: column(getattr(owners, theirs)) for name, theirs in _OWNER_MEMBERS.items()}
        # Memory that was never written is zero, also where -1 means never.
        written = members["handle"] != 0
        members["last_migrate_reason"] = column(owners.migrate_reason).astype(np.int16) - written
        members["comm"] = self._comms[column(owners.comm)]
        members["gfp_mask"] = translated(self._profile, column(owners.gfp))
        return OwnerColumns(flags, members, pinned)

    def tag_refs(self, start: int, stop: int) -> NDArray[np.uint16] | None:
        """The model's references."""
        tags = self._machine.alloc_tags
        if tags is None:
            return None
        found = np.zeros(stop - start, np.uint16)
        part = tags.ref[start:stop]
        found[: len(part)] = part
        return found if found.any() else None

    @cached_property
    def slabs(self) -> Sequence[SlabState]:  # type: ignore[override]
        """The model's objects by slab."""
        return slab_states(self._machine)

    @cached_property
    def trace(self) -> TraceState | None:  # type: ignore[override]
        """The events of the page pinner."""
        return trace_state(self._machine, self._addresses.direct(0), self._resolve)

    def _is_owned(self, rows: slice) -> bool:
        """Whether any of these pages has a flag or a record: every record has a stack.

        Most of a large machine's memory was never allocated; not looking at the other columns there saves
        half of the time that its page_ext takes, which is page faults.
        """
        owner = self._machine.page_owner
        columns = [self._machine.page_ext.flags]
        if owner is not None:
            columns += [owner.owners.handle, owner.owners.free_handle]  # type: ignore[list-item]
        if isinstance(self._machine.page_pinner, AndroidPinner):
            columns.append(self._machine.page_pinner.records.ts_usec)  # type: ignore[arg-type]
        return any(bool(values[rows].any()) for values in columns)

    @property
    def _comms(self) -> NDArray[np.bytes_]:
        return np.array([comm.encode()[:15] for comm in self._machine.comms] or [b""], "S16")

    @cached_property
    def depot(self) -> DepotState | None:  # type: ignore[override]
        """Pools and records at their places."""
        return depot_state(self._machine, self._addresses.direct, self._resolve)

    @cached_property
    def cma(self) -> list[CmaState]:  # type: ignore[override]
        """Areas with their bitmaps."""
        return cma_states(self._machine)

    @cached_property
    def shared_flags(self) -> frozenset[str]:  # type: ignore[override]
        """By the model's clients."""
        clients = self._machine.page_ext.clients
        return frozenset(each.name for each in clients if each.need_shared_flags)

    @cached_property
    def pinner(self) -> PinnerState | None:  # type: ignore[override]
        """Android's page pinner, if it is on."""
        return pinner_state(self._machine, self._addresses.direct)

    @property
    def reporting(self) -> ReportingState:  # type: ignore[override]
        """The device that is registered."""
        return reporting_state(self._machine)


def _pfns(pfns: Any) -> NDArray[np.int64]:
    return np.fromiter(pfns, np.int64, len(pfns))
