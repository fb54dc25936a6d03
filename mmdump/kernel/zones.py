"""Nodes and zones: their names and extents, and where page->flags keeps their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.kernel.arrays import I64, U8, U64
from mmdump.kernel.layout import c_string, enumerators, find_object
from mmdump.kernel.names import read_flag_fields

if TYPE_CHECKING:
    from drgn import Object, Program

__all__ = ["Zone", "ZoneBits", "each_zone", "read_zone_bits", "read_zones"]


@dataclass(frozen=True)
class Zone:
    """A populated zone of a node.

    :param node: Node number.
    :param index: Index among the node's zones, ``enum zone_type``.
    :param start_pfn: First PFN it spans.
    :param spanned: Pages it spans, holes included.
    :param present: Pages that exist.
    """

    node: int
    index: int
    name: str
    start_pfn: int
    spanned: int
    present: int


@dataclass(frozen=True)
class ZoneBits:
    """Where page->flags keeps zone and node, ``ZONES_PGSHIFT`` and ``NODES_PGSHIFT`` (macros, not in DWARF).

    The flags word is, from the top: section (not with a virtual memory map), node, zone, then the rest.
    """

    zone_shift: int
    zone_mask: int
    node_shift: int
    node_mask: int

    def zone(self, flags: U64) -> U8:
        """Zone indices of an array of flags words."""
        return ((flags >> np.uint64(self.zone_shift)) & np.uint64(self.zone_mask)).astype(np.uint8)

    def node(self, flags: U64) -> I64:
        """Node numbers of an array of flags words."""
        if not self.node_mask:
            return np.zeros(len(flags), np.int64)
        return ((flags >> np.uint64(self.node_shift)) & np.uint64(self.node_mask)).astype(np.int64)


def read_zone_bits(prog: Program) -> ZoneBits:
    """Find the fields: from the table by which the kernel prints them, or else as it lays them out.

    ``pff`` (lib/vsprintf.c, 5.13 and newer) has them all; before, widths follow from configuration as in
    ``include/linux/page-flags-layout.h``.
    """
    fields = {field.name: field for field in read_flag_fields(prog)}
    if "zone" in fields and "node" in fields:
        zone, node = fields["zone"], fields["node"]
        return ZoneBits(
            zone.shift, zone.mask if zone.width else 0, node.shift, node.mask if node.width else 0
        )
    zones = enumerators(prog, "enum zone_type").get("__MAX_NR_ZONES", 4)
    zone_width = (zones - 1).bit_length()
    try:
        # LENGTH(node_data) is MAX_NUMNODES, 1 << NODES_SHIFT; without NUMA there is no node_data.
        nodes = prog["node_data"].type_.length or 1
    except LookupError:
        nodes = 1
    node_width = (nodes - 1).bit_length()
    return ZoneBits(
        zone_shift=64 - node_width - zone_width,
        zone_mask=(1 << zone_width) - 1,
        node_shift=64 - node_width,
        node_mask=(1 << node_width) - 1,
    )


def read_zones(prog: Program) -> tuple[list[Zone], int]:
    """The populated zones of all nodes, in order of node and zone.

    :return: The zones, and how many nodes and zones are left out because they are garbage or not in the dump.
    """
    zones = []
    garbage = 0
    for found in _zones(prog):
        if found is None:
            garbage += 1
        else:
            zones.append(found[0])
    return zones, garbage


def each_zone(prog: Program) -> Iterator[tuple[Zone, Object]]:
    """The populated zones of all nodes with their ``struct zone``, in order of node and zone.

    Those that are garbage or not in the dump are left out.
    """
    return (found for found in _zones(prog) if found is not None)


def _zones(prog: Program) -> Iterator[tuple[Zone, Object] | None]:
    """The same; None stands for a node or a zone that is garbage or not in the dump."""
    for number, node in _nodes(prog):
        try:
            if node is None:
                yield None
                continue
            length = node.node_zones.type_.length or 0
            count = node.nr_zones.value_()
        except FaultError:
            yield None
            continue
        if not 0 <= count <= length:
            yield None
            count = length
        for index in range(count):
            zone = node.node_zones[index]
            try:
                present, spanned = zone.present_pages.value_(), zone.spanned_pages.value_()
                start = zone.zone_start_pfn.value_()
                if 0 < present <= spanned and start + spanned <= _MAX_PFN:
                    name = c_string(zone.name)
                elif present:
                    yield None
                    continue
                else:
                    continue
            except FaultError:
                yield None
                continue
            yield Zone(number, index, name, start, spanned, present), zone


#: No architecture has more physical address bits than 52, nor smaller pages than 4 KiB.
_MAX_PFN = 1 << 40


def _nodes(prog: Program) -> Iterator[tuple[int, Object | None]]:
    """Number and ``NODE_DATA()`` of every node, by the array; None where the pointer is not in the dump.

    A mask of nodes in a damaged dump may have no end, and a ``node_id`` may be anything.
    """
    table = find_object(prog, "node_data")
    if table is None:
        # Without CONFIG_NUMA.
        yield 0, prog["contig_page_data"].address_of_()
        return
    for index in range(table.type_.length or 0):
        try:
            node = table[index].read_()
        except FaultError:
            yield index, None
            continue
        if node:
            yield index, node
