"""The state of a real dump, in the terms of the writer: what mmdump decodes, to be laid out anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from drgn import Object, offsetof
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.pid import for_each_task
from numpy.typing import NDArray

from mmdump.kernel.cma import read_cma_bitmap
from mmdump.kernel.layout import enumerators, find_object, struct_dtype
from mmdump.kernel.percpu import each_cpu, possible_cpus
from mmdump_snapshots.writer.addresses import START_KERNEL_MAP, X86_TEXT, AddressSpace
from mmdump_snapshots.writer.links import LIST_POISON
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
    Record,
    ReportingState,
    State,
    TaskState,
    ZoneState,
)

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["DumpState", "dump_addresses"]

_CLIENTS = ("page_owner", "page_alloc_tagging", "page_table_check", "page_pinner")
_KEYS = ("page_owner_inited", "page_pinner_inited", "page_table_check_disabled")


def dump_addresses(kernel: Kernel) -> AddressSpace:
    """Where the kernel of an x86-64 dump has everything."""
    prog, info = kernel.target.prog, kernel.target.vmcoreinfo
    offset = int(info["KERNELOFFSET"], 16)
    base = int(info["NUMBER(phys_base)"])
    return AddressSpace.x86_64(
        text_phys=X86_TEXT + offset - START_KERNEL_MAP + base,
        page_offset=prog["page_offset_base"].value_(),
        vmalloc=prog["vmalloc_base"].value_(),
        vmemmap=kernel.memmap.vmemmap,
        kernel_offset=offset,
        levels=5 if info.get("NUMBER(pgtable_l5_enabled)") == "1" else 4,
    )


class DumpState(State):
    """What is in a dump of an x86-64 kernel, 6.12 or newer, whose memory is one range.

    :param kernel: The dump, opened with page_owner's client declared.
    :param addresses: Its address space; the same will be written.
    """

    def __init__(self, kernel: Kernel, addresses: AddressSpace) -> None:
        self.kernel = kernel
        self._prog = prog = kernel.target.prog
        self._addresses = addresses
        self.release = kernel.target.release
        self.page_shift = kernel.target.page_shift
        layout = kernel.page_layout
        bits: dict[int, str] = {}
        for name, bit in layout.flags.items():
            if name.startswith("PG_"):
                bits.setdefault(bit, name.removeprefix("PG_"))
        self._bits = tuple(bits)
        self.page_flags = tuple(bits.values())
        self.page_types = ("none", *(name for name in layout.types if name != "mapcount_underflow"))
        self.ext_flags = tuple(name.removeprefix("PAGE_EXT_") for name in kernel.page_ext.flags)
        self._ext_bits = tuple(kernel.page_ext.flags.values())
        self.ram = tuple((low, high) for low, high in kernel.memmap.ranges.tolist())
        self.cpus = len(possible_cpus(prog))
        self.clock = max(queue.clock.value_() for queue in each_cpu(prog, prog["runqueues"]))
        self.switches = frozenset(
            name
            for name in _KEYS
            if (key := find_object(prog, name)) is not None and key.key.enabled.counter.value_() > 0
        )
        page = prog.type("struct page")
        self._words = struct_dtype(
            prog,
            page,
            {"next": ("lru.next",), "prev": ("lru.prev",), "index": ("__folio_index", "index")},
        )
        self._lru = offsetof(page, "lru")
        self.zone_names = tuple(
            prog_name(zone.name) for zone in next(iter(for_each_online_pgdat(prog))).node_zones
        )
        self.nodes = [self._node(pgdat) for pgdat in for_each_online_pgdat(prog)]
        self.tasks = [
            TaskState(task.comm.string_().decode(), task.pid.value_(), task.tgid.value_(), task.value_())
            for task in for_each_task(prog)
        ]
        self.reserved = self._reserved_runs()

    def _reserved_runs(self) -> list[tuple[int, int]]:
        """Runs of reserved pages, the longest first: the kernel image, and what boot allocated."""
        marks = [
            self._range(start, end).has_flag("PG_reserved") for start, end in self.kernel.memmap.chunks()
        ]
        edges = np.diff(np.concatenate(([False], *marks, [False])).view(np.int8))
        base = self.ram[0][0]
        runs = zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)
        return sorted(((base + low, base + high) for low, high in runs), key=lambda run: run[0] - run[1])[:8]

    # Pages

    def _range(self, start: int, stop: int) -> PageRange:
        return self.kernel.pages(start, stop, ext=bool(self.ext_flags), blocks=False)

    def _stored(self, start: int, stop: int) -> NDArray[Any]:
        size = self._words.itemsize
        chunk = self.kernel.target.reader.read(self.kernel.memmap.address(start), (stop - start) * size)
        return chunk.data.view(self._words)

    def pages(self, start: int, stop: int) -> PageColumns:
        """The columns that mmdump decodes, and the words of ``lru`` as they are."""
        stop = min(stop, self.kernel.memmap.end_pfn)
        pages = self._range(start, stop)
        flags = np.zeros(len(pages), np.uint64)
        for index, bit in enumerate(self._bits):
            flags |= (pages.flags >> np.uint64(bit) & np.uint64(1)) << np.uint64(index)
        kind = np.zeros(len(pages), np.uint8)
        for number, name in enumerate(self.page_types[1:], 1):
            kind[pages.is_type(name)] = number
        stored = self._stored(start, stop)
        tail = np.where(pages.is_tail, pages.pfn - pages.head_pfn, 0)
        return PageColumns(
            start=start,
            flags=flags,
            zone=pages.zone,
            node=pages.node.astype(np.uint8),
            type=kind,
            refcount=pages.refcount,
            mapcount=np.where(kind != 0, np.int32(0), pages.raw_mapcount + np.int32(1)),
            tail=tail.astype(np.uint32),
            head_order=pages.folio_order[np.maximum(np.arange(len(pages)) - tail, 0)],
            mapping=pages.mapping,
            index=stored["index"],
            private=pages.private,
            memcg_data=pages.memcg_data,
            type_data=np.where(kind != 0, pages.raw_mapcount.view(np.uint32) & np.uint32(0xFFFFFF), 0).astype(
                np.uint32
            ),
            links=np.stack([stored["next"], stored["prev"]], axis=1),
        )

    def folios(self, start: int, stop: int) -> Folios:
        """Compound pages, with the fields that this kernel has."""
        stop = min(stop, self.kernel.memmap.end_pfn)
        pages = self._range(start, stop)
        rows = np.flatnonzero(pages.is_head)
        layout = pages.layout
        fields = {
            "entire_mapcount": pages.folio_field("_entire_mapcount", rows) + 1,
            "large_mapcount": pages.folio_field("_large_mapcount", rows) + 1,
            "pincount": pages.folio_field("_pincount", rows),
        }
        place = self.kernel.target.prog.type("struct folio")
        if place.has_member("_nr_pages_mapped"):
            words = np.ndarray(
                (len(pages),), "<i4", self._raw(start, stop), offsetof(place, "_nr_pages_mapped") - 64, (64,)
            )
            fields["nr_pages_mapped"] = words[rows + 1].astype(np.int64)
        flags = {}
        if "PG_large_rmappable" in layout.flags:
            bits = pages.folio_field("_flags_1", rows)
            flags["large_rmappable"] = (bits >> layout.flags["PG_large_rmappable"] & 1) != 0
        return Folios(start + rows, pages.folio_order[rows], flags, fields)

    def _raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        size = self._words.itemsize
        return self.kernel.target.reader.read(self.kernel.memmap.address(start), (stop - start) * size).data

    def owners(self, start: int, stop: int) -> OwnerColumns:
        """Flags and records."""
        stop = min(stop, self.kernel.memmap.end_pfn)
        ext = self._range(start, stop).ext
        assert ext is not None
        flags = np.zeros(stop - start, np.uint64)
        for index, bit in enumerate(self._ext_bits):
            flags |= (ext.flags >> np.uint64(bit) & np.uint64(1)) << np.uint64(index)
        record = ext["page_owner"]
        members = {name: record[name] for name in record.names if name != "comm"}
        members["comm"] = np.ascontiguousarray(record["comm"]).view("S16").reshape(-1)
        return OwnerColumns(flags, members)

    def pageblocks(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """By name; a block that is isolated in this dump is so here."""
        numbers = enumerators(self._prog, "enum migratetype")
        order = self.kernel.pageblocks.order
        stop = min(stop, self.kernel.memmap.end_pfn)
        pages = self.kernel.pages(start, stop)
        heads = np.arange(0, len(pages), 1 << order)
        table = np.zeros(256, np.uint8)
        for index, name in enumerate(MIGRATETYPES):
            if f"MIGRATE_{name}" in numbers:
                table[numbers[f"MIGRATE_{name}"]] = index
        types = table[pages.migratetype_of(heads)]
        return types, types == MIGRATETYPES.index("ISOLATE")

    # Lists

    def _walk(self, anchor: int, after: int) -> Iterator[int]:
        """The PFNs on a list, by the links in the page array."""
        memmap = self.kernel.memmap
        while after != anchor:
            pfn = (after - self._lru - memmap.vmemmap) // memmap.page_size
            yield pfn
            after = int(self._next[pfn])

    @cached_property
    def _next(self) -> NDArray[np.uint64]:
        words = np.zeros(self.kernel.memmap.end_pfn, np.uint64)
        for start, end in self.kernel.memmap.chunks():
            words[start:end] = self._stored(start, end)["next"]
        return words

    def _list(self, head: Object) -> NDArray[np.int64]:
        anchor = head.address_
        assert anchor is not None
        if head.next.value_() == LIST_POISON[0]:
            # The list of unevictable pages is none (5.18).
            return np.empty(0, np.int64)
        return np.fromiter(self._walk(anchor, head.next.value_()), np.int64)

    def _node(self, pgdat: Object) -> NodeState:
        numbers = enumerators(self._prog, "enum lru_list")
        lists = getattr(pgdat, "__lruvec").lists
        return NodeState(
            pgdat.node_id.value_(),
            pgdat.node_start_pfn.value_(),
            pgdat.node_spanned_pages.value_(),
            pgdat.node_present_pages.value_(),
            [self._zone(zone) for zone in pgdat.node_zones],
            {name: self._list(lists[numbers[f"LRU_{name}"]]) for name in LRU_LISTS},
        )

    def _zone(self, zone: Object) -> ZoneState:
        numbers = enumerators(self._prog, "enum migratetype")
        empty = not zone.present_pages.value_()
        free = []
        for area in zone.free_area:
            lists = {}
            for name in MIGRATETYPES if not empty else ():
                if f"MIGRATE_{name}" in numbers:
                    lists[name] = self._list(area.free_list[numbers[f"MIGRATE_{name}"]])
            free.append({name: pfns for name, pfns in lists.items() if len(pfns)})
        pcp = []
        for cpu in possible_cpus(self._prog) if not empty else ():
            lists_of = per_cpu_ptr(zone.per_cpu_pageset, cpu).lists
            pcp.append([self._list(each) for each in lists_of])
        marks = zone.member_("_watermark")
        return ZoneState(
            prog_name(zone.name),
            zone.zone_start_pfn.value_(),
            zone.spanned_pages.value_(),
            zone.present_pages.value_(),
            zone.managed_pages.counter.value_(),
            (marks[0].value_(), marks[1].value_(), marks[2].value_()),
            free,
            pcp,
        )

    # Beside the pages

    @cached_property
    def page_ext(self) -> PageExtState | None:  # type: ignore[override]
        """The tables where they were; in the direct map, where they can be put again."""
        layout, sections = self.kernel.page_ext, self.kernel.memmap.sections
        if not layout.stride:
            return None
        clients = {}
        for name in _CLIENTS:
            ops = find_object(self._prog, f"{name}_ops")
            if ops is not None and (layout.enabled(name) or not layout.client(name)):
                clients[name] = ops.offset.value_(), ops.size.value_()
        tables = {
            int(number): int(base) + layout.stride * int(number) * sections.pages & 0xFFFFFFFFFFFFFFFF
            for number, base in zip(sections.number, sections.page_ext, strict=True)
            if base
        }
        return PageExtState(layout.stride, bool(layout.flags), clients, tables)

    @cached_property
    def depot(self) -> DepotState | None:  # type: ignore[override]
        """All records, found by walking the pools: each says its own handle."""
        depot = self.kernel.stack_depot
        if depot is None:
            return None
        layout, prog = depot.layout, self._prog
        counts = offsetof(prog.type("struct stack_record"), "count")
        records = []
        for number, pool in enumerate(layout.pools):
            words = self.kernel.target.reader.read(pool, layout.pool_size).data.view("<u4")
            offset = 0
            while offset + layout.entries_offset < layout.pool_size:
                row = offset // 4
                handle = number + layout.biases[0] | (offset >> 4) << layout.index_bits
                size = int(words[row + layout.size_offset // 4])
                if int(words[row + layout.handle_offset // 4]) & layout.mask == handle and 0 < size <= 64:
                    first = row + layout.entries_offset // 4
                    frames = words[first : first + 2 * size].view("<u8").tolist()
                    value = int(words[row + layout.size_offset // 4 - 1])
                    count = int(words[row + counts // 4])
                    records.append(Record(handle, value, tuple(frames), number, offset, count))
                    offset += -(-(layout.entries_offset + 8 * size) // 16) * 16
                else:
                    offset += 16
        file = "mm/page_owner.c"
        special = {
            name: found.value_()
            for name in ("dummy_handle", "failure_handle", "early_handle")
            if (found := find_object(prog, name, file)) is not None
        }
        return DepotState(
            layout.pools,
            records,
            len(layout.pools) - 1,
            prog["pool_offset"].value_(),
            prog["stack_hash_mask"].value_(),
            special,
            self._listed(),
        )

    def _listed(self) -> list[tuple[int, int]]:
        found = []
        entry = find_object(self._prog, "stack_list", "mm/page_owner.c")
        while entry:
            static = self._addresses.kernel(X86_TEXT) <= entry.value_()
            record = entry.stack_record
            found.append((record.handle.handle.value_() if record else 0, 0 if static else entry.value_()))
            entry = entry.next
        return found

    @cached_property
    def cma(self) -> Sequence[CmaState]:  # type: ignore[override]
        """Areas with their bitmaps, those that could be read."""
        found = []
        for area in self.kernel.cma_areas:
            pages = read_cma_bitmap(self.kernel.target.reader, area)
            assert pages is not None
            bits = pages[:: 1 << area.order_per_bit]
            counts = area.succeeded or 0, area.failed or 0
            found.append(
                CmaState(area.name, [(area.base_pfn, area.count)], area.order_per_bit, [bits], *counts)
            )
        return found

    @cached_property
    def batches(self) -> Mapping[str, Sequence[Sequence[int]]]:  # type: ignore[override]
        """Every CPU's batches; those of cpu_fbatches as one."""
        memmap = self.kernel.memmap
        found: dict[str, list[list[int]]] = {"lru_add": [], "mlock": []}
        for kind, name in (("lru_add", "cpu_fbatches"), ("mlock", "mlock_fbatch")):
            for batches in each_cpu(self._prog, self._prog[name]):
                folios = []
                for member in batches.type_.members or ():
                    if member.name is None or getattr(member.type, "tag", None) != "folio_batch":
                        continue
                    batch = batches.member_(member.name)
                    for folio in batch.folios[: batch.nr.value_()]:
                        word = folio.value_()
                        folios.append(((word & ~3) - memmap.vmemmap) // memmap.page_size << 2 | word & 3)
                found[kind].append(folios)
        return found

    @property
    def reporting(self) -> ReportingState:  # type: ignore[override]
        """The device, if there is one."""
        device = find_object(self._prog, "pr_dev_info")
        order = find_object(self._prog, "page_reporting_order")
        key = find_object(self._prog, "page_reporting_enabled")
        return ReportingState(
            device.state.counter.value_() if device else None,
            key is not None and key.key.enabled.counter.value_() > 0,
            None if order is None or order.value_() >= 1 << 31 else order.value_(),
            device.member_("order").value_() if device else 0,
        )


def prog_name(name: Object) -> str:
    """A zone's name."""
    return name.string_().decode()
