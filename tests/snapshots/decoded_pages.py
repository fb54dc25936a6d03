"""The columns of pages: decoded, row by row what the machine has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmdump.kernel.cma import read_cma_bitmap
from mmdump_snapshots.model.pages import ExtFlag, PageFlag, PageType
from mmdump_snapshots.model.truth_mapcount import page_table_mappings

from .decoded import Decoded, Part, equal

__all__ = ["check_ext_flags", "check_free", "check_mappings", "check_page_columns", "check_surroundings"]


def check_page_columns(decoded: Decoded) -> None:
    """Flags, types, references, compound pages, free blocks, zones, nodes, migratetypes."""
    pages = decoded.machine.pages
    names = np.array(decoded.kernel.pageblocks.names)
    zones = {zone.index: zone.name for zone in decoded.kernel.zones}
    zone_names = np.array([zones.get(index, "") for index in range(max(zones) + 1)])
    for part, head in decoded.page_columns():
        found, rows, pfn = part.pages, part.rows, part.pfn
        assert found.readable.all()
        outside = np.ones(len(found), bool)
        outside[rows] = False
        assert found.has_flag("PG_reserved")[outside].all()
        assert (found.refcount[outside] == 1).all()

        equal("refcount", found.refcount[rows], pages.refcount[pfn], pfn)
        kind = pages.type[pfn]
        heads = pages.flags[pfn] & np.uint32(PageFlag.HEAD) != 0
        buddy = kind == PageType.BUDDY
        order = pages.order[pfn]
        equal("head", found.head_pfn[rows], head, pfn)
        equal("is_tail", found.is_tail[rows], pages.tail[pfn] != 0, pfn)
        equal("is_head", found.is_head[rows], heads, pfn)
        equal("folio order", found.folio_order[rows], np.where(heads, order, 0), pfn)
        equal("is_buddy", found.is_buddy[rows], buddy, pfn)
        equal("buddy order", found.buddy_order[rows], np.where(buddy, order, 0), pfn)
        _types(decoded, part)
        _flag_words(decoded, part)
        small = pages.tail[pfn] == 0
        # What a slab says of itself lies over it: its cache (up to 6.1), its list of free objects.
        plain = small & (kind != PageType.SLAB)
        equal("mapping", found.mapping[rows[plain]], _mapping(decoded, pfn[plain]), pfn[plain])
        # A guard keeps its order there; up to 5.2 only page_ext says that it is one.
        guard = (kind == PageType.GUARD) | (decoded.machine.page_ext.flags[pfn] & ExtFlag.DEBUG_GUARD != 0)
        # The counters of struct slab lie over it.
        used = small & ~buddy & ~guard & (kind != PageType.SLAB)
        equal("private", found.private[rows[used]], pages.private[pfn[used]], pfn[used])
        equal("migratetype", names[found.migratetype[rows]], decoded.migratetype(pfn), pfn)
        equal("zone", zone_names[found.zone[rows]], decoded.zone_names(pfn), pfn)
        equal("node", found.node[rows], decoded.nodes(pfn), pfn)


def _types(decoded: Decoded, part: Part) -> None:
    kind = decoded.machine.pages.type[part.pfn]
    known = set(decoded.kernel.page_layout.types)
    for each in PageType:
        name = each.name.lower()
        if each is PageType.NONE or (name not in known and each not in (PageType.SLAB, PageType.HUGETLB)):
            continue
        equal(name, part.pages.is_type(name)[part.rows], kind == each, part.pfn)
    # Slab is a flag up to 6.9, and its pages' _mapcount counts nothing.
    plain = kind == PageType.NONE
    equal(
        "_mapcount",
        part.pages.raw_mapcount[part.rows[plain]],
        decoded.machine.pages.mapcount[part.pfn[plain]] - 1,
        part.pfn[plain],
    )


def flag_bits(decoded: Decoded, flags: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The model's flags at this kernel's bits. A flag that the kernel has not is none."""
    bits = decoded.profile.types.enumerators("enum pageflags")
    found = np.zeros(len(flags), np.uint64)
    for flag in PageFlag:
        if (name := f"PG_{flag.name.lower()}") in bits:
            found[flags & np.uint32(flag) != 0] |= np.uint64(1 << bits[name])
    return found


def _flag_words(decoded: Decoded, part: Part) -> None:
    """All flag bits of all pages, but of first tails, which hold flags of the folio."""
    pages, bits = decoded.machine.pages, decoded.profile.types.enumerators("enum pageflags")
    everything = np.uint64((1 << bits["__NR_PAGEFLAGS"]) - 1)
    expected = flag_bits(decoded, pages.flags[part.pfn])
    if "PG_slab" in bits:
        expected[pages.type[part.pfn] == PageType.SLAB] |= np.uint64(1 << bits["PG_slab"])
    plain = pages.tail[part.pfn] != 1
    words = part.pages.flags[part.rows] & everything
    equal("flags", words[plain], expected[plain], part.pfn[plain])
    if "PG_double_map" in bits:
        double = {head for head, folio in decoded.machine.rmap.folios.items() if folio.double_map}
        first = np.flatnonzero(~plain)
        equal(
            "PG_double_map",
            words[first] >> np.uint64(bits["PG_double_map"]) & np.uint64(1) != 0,
            np.isin(part.pfn[first] - 1, list(double)),
            part.pfn[first],
        )


def _mapping(decoded: Decoded, pfn: NDArray[np.int64]) -> NDArray[np.uint64]:
    physical = decoded.machine.pages.mapping[pfn]
    base = np.uint64(decoded.image.addresses.direct(0))
    return np.where(physical != 0, physical + base, np.uint64(0))


def check_mappings(decoded: Decoded) -> None:
    """``folio_mapcount()``, and FOLL_PIN pins where they are counted exactly."""
    machine = decoded.machine
    mappings = page_table_mappings(machine)
    every = np.zeros(machine.pages.count, np.int64)
    every[mappings.pte_pfns] = mappings.pte_counts
    sums = np.concatenate([[0], np.cumsum(every)])
    for part, head in decoded.page_columns():
        own = head == part.pfn
        pfn, rows = part.pfn[own], part.rows[own]
        large = machine.pages.flags[pfn] & np.uint32(PageFlag.HEAD) != 0
        count = np.where(large, np.left_shift(1, machine.pages.order[pfn].astype(np.int64)), 1)
        expected = sums[pfn + count] - sums[pfn]
        for folio, pmds in mappings.pmds.items():
            expected[pfn == folio] += pmds
        # The last page of memory may begin a range that is not whole.
        equal("folio_mapcount", part.pages.folio_mapcount(rows), expected, pfn)
        exact = np.array([machine.gup.counted(each) for each in pfn[large].tolist()], bool)
        heads = pfn[large][exact]
        equal("counts_pins", part.pages.counts_pins(rows[large]), exact, pfn[large])
        pins = np.array([machine.rmap.folios[each].pincount for each in heads.tolist()], np.int64)
        equal("pincount", part.pages.folio_pincount(rows[large][exact]), pins, heads)


def check_ext_flags(decoded: Decoded) -> None:
    """The bits of ``page_ext->flags``: owners, marks, guard pages."""
    machine, layout = decoded.machine, decoded.kernel.page_ext
    assert layout.stride == (machine.page_ext.stride if machine.page_ext.tables else 0)
    if not layout.stride or not machine.page_ext.has_flags:
        return
    for part in decoded.parts:
        assert part.pages.ext is not None
        for flag in ExtFlag:
            name = f"PAGE_EXT_{flag.name}"
            found = part.pages.ext.has_flag(name)[part.rows]
            expected = machine.page_ext.flags[part.pfn] & np.uint8(flag) != 0
            # What the kernel has no flag for, the model must not mark.
            equal(name, found, expected, part.pfn)
    assert machine.page_pinner is not None
    name = f"PAGE_EXT_{machine.page_pinner.flag.name}"
    marks = [part.pfn[part.pages.ext.has_flag(name)[part.rows]] for part in decoded.parts]
    assert np.array_equal(np.concatenate(marks), decoded.truth.owners.marked)


def check_free(decoded: Decoded) -> None:
    """Free blocks by zone and order, reported blocks, guards."""
    free = decoded.truth.free
    found: dict[tuple[int, str, int], list[int]] = {}
    reported: list[int] = []
    guards: list[int] = []
    for part in decoded.parts:
        heads = np.flatnonzero(part.pages.is_buddy)
        pfn = heads + part.pages.start
        zones, nodes = decoded.zone_names(pfn), part.pages.node[heads]
        for at, order, zone, node in zip(
            pfn.tolist(), part.pages.buddy_order[heads].tolist(), zones.tolist(), nodes.tolist(), strict=True
        ):
            found.setdefault((node, zone, order), []).append(at)
        reported += pfn[part.pages.has_flag("PG_reported", at=heads)].tolist()
        if not decoded.era.guard_pages_in_page_ext:
            guards += (np.flatnonzero(part.pages.is_type("guard")) + part.pages.start).tolist()
        elif part.pages.ext is not None:
            guards += (
                np.flatnonzero(part.pages.ext.has_flag("PAGE_EXT_DEBUG_GUARD")) + part.pages.start
            ).tolist()
    expected: dict[tuple[int, str, int], list[int]] = {}
    for (node, zone, order, _), pfns in free.free.items():
        expected.setdefault((node, zone, order), []).extend(pfns.tolist())
    assert found == {key: sorted(pfns) for key, pfns in expected.items()}
    if decoded.era.page_reporting:
        assert reported == free.reported.pfn.tolist()
    assert guards == free.guards.pfn.tolist()


def check_surroundings(decoded: Decoded) -> None:
    """Zones, CMA areas with their bitmaps, which memory there is."""
    machine, kernel = decoded.machine, decoded.kernel
    assert [(zone.node, zone.name, zone.start_pfn, zone.spanned, zone.present) for zone in kernel.zones] == [
        (zone.node, zone.name, zone.start_pfn, zone.spanned, zone.present) for zone in machine.zones
    ]
    assert [(area.name, area.base_pfn, area.count, area.order_per_bit) for area in kernel.cma_areas] == [
        (area.name, area.base_pfn, area.count, area.order_per_bit) for area in machine.cma
    ]
    assert kernel.cma_garbage == 0
    for area, theirs in zip(kernel.cma_areas, machine.cma, strict=True):
        bitmap = read_cma_bitmap(kernel.target.reader, area)
        assert np.array_equal(bitmap, np.repeat(theirs.bitmap, 1 << theirs.order_per_bit))
    covered = np.concatenate([part.pfn for part in decoded.parts])
    assert np.array_equal(covered, np.concatenate([np.arange(*each) for each in machine.ram]))
