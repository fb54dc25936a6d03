"""Nodes and zones: ``struct pglist_data``, free lists and counters (include/linux/mmzone.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump_snapshots.writer.links import LIST_POISON, LinkTable
from mmdump_snapshots.writer.percpu import PerCpu
from mmdump_snapshots.writer.state import LRU_LISTS, MIGRATETYPES, NodeState, State, ZoneState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.writer.arena import Arena, Struct

__all__ = ["write_nodes", "zone_numbers"]


def zone_numbers(profile: Profile) -> dict[str, int]:
    """Zones by the name that the kernel prints: DMA, DMA32, Normal, Movable, Device -> ``enum zone_type``."""
    names = {"NORMAL": "Normal", "MOVABLE": "Movable", "DEVICE": "Device", "HIGHMEM": "HighMem"}
    return {
        names.get(name.removeprefix("ZONE_"), name.removeprefix("ZONE_")): value
        for name, value in profile.types.enumerators("enum zone_type").items()
        if name.startswith("ZONE_")
    }


def write_nodes(
    arena: Arena, state: State, links: LinkTable, percpu: PerCpu, deferred: LinkTable | None = None
) -> None:
    """Write every node, the masks of nodes, and the counters of all zones together.

    :param deferred: Takes the links of folios on queues to split; None where the kernel has none.
    """
    total: dict[str, int] = {}
    node_total: dict[str, int] = {}
    pointers = np.zeros(max((node.number for node in state.nodes), default=0) + 1, "<u8")
    for node in state.nodes:
        if arena.has("node_data"):
            pgdat = arena.struct("struct pglist_data", 4096)
        else:
            # Without CONFIG_NUMA.
            pgdat = arena.variable("contig_page_data")
        _node(arena, pgdat, node, links, percpu, total, node_total)
        if deferred is not None and node.deferred_split is not None:
            _split_queue(pgdat, node.deferred_split, deferred)
        if arena.has("node_data"):
            pointers[node.number] = arena.finish(pgdat)
        else:
            arena.store(pgdat)
    if arena.has("node_data"):
        arena.write("node_data", pointers.tobytes())
    _masks(arena, state)
    _counters(arena, "vm_zone_stat", "enum zone_stat_item", total)
    _counters(arena, "vm_node_stat", "enum node_stat_item", node_total)


def _split_queue(pgdat: Struct, queue: NDArray[np.int64], deferred: LinkTable) -> None:
    """The queue of folios to split: the node's own, as nothing is charged to a memory cgroup."""
    # A struct of its own since 5.4; a list_lru, which is not written, since 7.2.
    for path in ("deferred_split_queue.", ""):
        if pgdat.maybe(path + "split_queue_len", len(queue)):
            after, before = deferred.add(pgdat.at(path + "split_queue"), queue)
            pgdat.set(path + "split_queue.next", after)
            pgdat.set(path + "split_queue.prev", before)
            return


def _counters(arena: Arena, name: str, enum: str, values: dict[str, int]) -> None:
    if not arena.has(name):
        return
    numbers = arena.profile.types.enumerators(enum)
    array = np.zeros(arena.type(name).size // 8, "<i8")
    for item, value in values.items():
        if item in numbers:
            array[numbers[item]] = value
    arena.write(name, array.tobytes())


def _masks(arena: Arena, state: State) -> None:
    """``node_states``, ``nr_node_ids``: every node is online, and has memory and CPUs."""
    nodes = sum(1 << node.number for node in state.nodes)
    if arena.has("node_states"):
        states = arena.profile.types.enumerators("enum node_states")
        ctype = arena.type("node_states")
        stride = ctype.size // (ctype.length or 1)
        raw = bytearray(ctype.size)
        for name, number in states.items():
            if name not in ("NR_NODE_STATES", "N_GENERIC_INITIATOR"):
                raw[number * stride : number * stride + 8] = nodes.to_bytes(8, "little")
        arena.write("node_states", bytes(raw))
    arena.maybe("nr_node_ids", nodes.bit_length())
    arena.maybe("nr_online_nodes", nodes.bit_count())


def _node(
    arena: Arena,
    pgdat: Struct,
    node: NodeState,
    links: LinkTable,
    percpu: PerCpu,
    total: dict[str, int],
    node_total: dict[str, int],
) -> None:
    pgdat.maybe("node_id", node.number)
    pgdat.set("node_start_pfn", node.start_pfn)
    pgdat.set("node_spanned_pages", node.spanned)
    pgdat.set("node_present_pages", node.present)
    numbers = zone_numbers(arena.profile)
    populated = 0
    names = {number: name for name, number in numbers.items()}
    count = arena.profile.types.member("struct pglist_data", "node_zones").type.length or len(names)
    given = {numbers[zone.name]: zone for zone in node.zones if zone.name in numbers}
    for index in range(count):
        zone = given.get(index)
        at = f"node_zones[{index}]."
        pgdat.set(at + "name", arena.string(zone.name if zone else names.get(index, "")))
        pgdat.set(at + "zone_pgdat", pgdat.address)
        pgdat.maybe(at + "node", node.number)
        if zone is not None and zone.spanned:
            populated = index + 1
            _zone(arena, pgdat, at, zone, links, percpu, total)
    pgdat.set("nr_zones", populated)
    _lru(arena, pgdat, node, links, node_total)


def _zone(
    arena: Arena,
    pgdat: Struct,
    at: str,
    zone: ZoneState,
    links: LinkTable,
    percpu: PerCpu,
    total: dict[str, int],
) -> None:
    pgdat.set(at + "zone_start_pfn", zone.start_pfn)
    pgdat.set(at + "spanned_pages", zone.spanned)
    pgdat.set(at + "present_pages", zone.present)
    pgdat.first((at + "managed_pages.counter", at + "managed_pages"), zone.managed)
    pgdat.maybe(at + "initialized", 1)
    for index, pages in enumerate(zone.watermarks):
        # Renamed in 5.0.
        pgdat.first((f"{at}_watermark[{index}]", f"{at}watermark[{index}]"), pages)
    for name, pages in zone.lowmem_reserve.items():
        if name in zone_numbers(arena.profile):
            pgdat.set(f"{at}lowmem_reserve[{zone_numbers(arena.profile)[name]}]", pages)
    pgdat.set(at + "nr_reserved_highatomic", zone.nr_reserved_highatomic)
    free_highatomic = [len(lists.get("HIGHATOMIC", ())) << order for order, lists in enumerate(zone.free)]
    pgdat.maybe(at + "nr_free_highatomic", sum(free_highatomic))
    free_cma = _free_lists(arena, pgdat, at, zone, links)
    counters = {"NR_FREE_PAGES": zone.nr_free, "NR_FREE_CMA_PAGES": free_cma}
    numbers = arena.profile.types.enumerators("enum zone_stat_item")
    for item, value in counters.items():
        if item in numbers:
            pgdat.set(f"{at}vm_stat[{numbers[item]}].counter", value)
            total[item] = total.get(item, 0) + value
    _per_cpu_pages(pgdat, at, zone, links, percpu)


def _free_lists(arena: Arena, pgdat: Struct, at: str, zone: ZoneState, links: LinkTable) -> int:
    """``zone->free_area``.

    :return: Free pages of CMA blocks.
    """
    types = arena.profile.types
    migratetypes = types.enumerators("enum migratetype")
    numbered = {
        migratetypes[f"MIGRATE_{name}"]: name for name in MIGRATETYPES if f"MIGRATE_{name}" in migratetypes
    }
    area = types.member("struct zone", "free_area").type
    assert area.target is not None
    stride = area.target.size
    first = pgdat.offset(at + "free_area")
    lists = types.member("struct free_area", "free_list")
    nr_free = types.member("struct free_area", "nr_free").offset
    free_cma = 0
    for order in range(area.length or 0):
        base = first + order * stride
        mine = zone.free[order] if order < len(zone.free) else {}
        heads = np.frombuffer(pgdat.data, "<u8", 2 * (lists.type.length or 0), base + lists.offset)
        for number in range(lists.type.length or 0):
            pfns = mine.get(numbered.get(number, ""), _NONE)
            anchor = pgdat.address + base + lists.offset + 16 * number
            heads[2 * number : 2 * number + 2] = links.add(anchor, pfns)
            if numbered.get(number) == "CMA":
                free_cma += len(pfns) << order
        np.frombuffer(pgdat.data, "<u8", 1, base + nr_free)[0] = sum(len(pfns) for pfns in mine.values())
    return free_cma


_NONE = np.empty(0, np.int64)


def _per_cpu_pages(pgdat: Struct, at: str, zone: ZoneState, links: LinkTable, percpu: PerCpu) -> None:
    """``zone->per_cpu_pageset`` (5.13; ``pageset`` with a struct around the pages before)."""
    types = percpu.profile.types
    modern = types.has("struct zone", "per_cpu_pageset")
    name, inner = ("struct per_cpu_pages", "") if modern else ("struct per_cpu_pageset", "pcp.")
    pointer, instances = percpu.allocate(name)
    pgdat.set(at + ("per_cpu_pageset" if modern else "pageset"), pointer)
    if modern:
        # Every counter has been added to the zone's.
        counters, copies = percpu.allocate("struct per_cpu_zonestat")
        pgdat.set(at + "per_cpu_zonestats", counters)
        for copy in copies:
            percpu.finish(copy)
    length = types.member(name, inner + "lists").type.length or 0
    era = percpu.profile.era
    small = era.pcp_types * 4
    for cpu, instance in enumerate(instances):
        given = zone.pcp[cpu] if cpu < len(zone.pcp) else ()
        count = 0
        for index in range(length):
            pfns = given[index] if index < len(given) else _NONE
            after, before = links.add(instance.at(f"{inner}lists[{index}]"), pfns)
            instance.set(f"{inner}lists[{index}].next", after)
            instance.set(f"{inner}lists[{index}].prev", before)
            count += len(pfns) << (index // era.pcp_types if index < small else era.pmd_order)
        instance.set(inner + "count", count)
        percpu.finish(instance)


def _lru(arena: Arena, pgdat: Struct, node: NodeState, links: LinkTable, node_total: dict[str, int]) -> None:
    """The node's own lists of pages in use: ``__lruvec``, which all are on without memory control groups."""
    types = arena.profile.types
    numbers = types.enumerators("enum lru_list")
    vector = "__lruvec" if types.has("struct pglist_data", "__lruvec") else "lruvec"  # renamed in 5.7
    items = types.enumerators("enum node_stat_item")
    for name in LRU_LISTS:
        key = f"LRU_{name}"
        if key not in numbers:
            continue
        path = f"{vector}.lists[{numbers[key]}]"
        pfns = node.lru.get(name, _NONE)
        if name == "UNEVICTABLE" and arena.profile.version >= (5, 18):
            # Counted, but on no list: what would be a link is the folio's mlock_count.
            links.unlisted(pfns, (LIST_POISON[0], 1))
            after, before = LIST_POISON
        else:
            after, before = links.add(pgdat.at(path), pfns)
        pgdat.set(path + ".next", after)
        pgdat.set(path + ".prev", before)
        if f"NR_{name}" in items:
            pgdat.set(f"vm_stat[{items[f'NR_{name}']}].counter", len(pfns))
            node_total[f"NR_{name}"] = node_total.get(f"NR_{name}", 0) + len(pfns)
    pgdat.maybe(f"{vector}.pgdat", pgdat.address)
