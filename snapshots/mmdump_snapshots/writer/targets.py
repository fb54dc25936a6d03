"""What in a machine's memory is worth damaging: the structures that mmdump and drgn follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdump_snapshots.writer.memory import NotRamError
from mmdump_snapshots.writer.sections import section_order

if TYPE_CHECKING:
    from mmdump_snapshots.writer.damage import Ranges
    from mmdump_snapshots.writer.image import Image

__all__ = ["targets"]

_POINTER = 8


def targets(image: Image) -> Ranges:
    """Physical ranges of a machine's metadata by what is in them, for :meth:`.damage.Damage.memory`.

    Names that this kernel or machine has nothing of are left out.
    """
    finder = _Finder(image)
    found = {
        "page array": finder.page_array(),
        "page_ext": finder.page_ext(),
        "stack depot": finder.depot_pools(),
        "depot hash table": finder.hash_table(),
        "page tables": [(table, table + image.addresses.page_size) for table in image.page_tables.tables],
        "memory sections": finder.sections(),
        "nodes and zones": finder.nodes(),
        "kernel data": finder.regions(".data", ".bss"),
        "kernel rodata": finder.regions(".rodata"),
        "per-CPU areas": finder.per_cpu(),
        "CMA areas": finder.cma(),
    }
    return {
        name: inside
        for name, ranges in found.items()
        if (inside := [(start, end) for start, end in ranges if image.memory.is_ram(start, end - start)])
    }


class _Finder:
    """Follows the image's own variables, before anything is damaged."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._types = image.profile.types

    def page_array(self) -> list[tuple[int, int]]:
        size = self._types.sizeof("struct page")
        return [(phys, phys + (end - start) * size) for start, end, phys in self._image.page_array]

    def page_ext(self) -> list[tuple[int, int]]:
        ext = self._image.state.page_ext
        if ext is None:
            return []
        size = ext.stride << section_order(self._image.profile)
        return [self._at(address, size) for address in ext.tables.values()]

    def depot_pools(self) -> list[tuple[int, int]]:
        depot = self._image.state.depot
        # DEPOT_POOL_ORDER is 2 on all kernels.
        size = self._image.addresses.page_size << 2
        return [] if depot is None else [self._at(pool, size) for pool in depot.pools]

    def hash_table(self) -> list[tuple[int, int]]:
        depot, place = self._image.state.depot, self._variable("stack_table")
        if depot is None or place is None:
            return []
        start, end = place
        if end - start > _POINTER:
            return [place]  # an array, up to 5.11
        buckets = 16 if self._types.has("struct stack_record", "hash_list") else 8
        return [self._at(self._word(start), buckets * (depot.hash_mask + 1))]

    def sections(self) -> list[tuple[int, int]]:
        place = self._variable("mem_section")
        if place is None:
            return []
        page = self._image.addresses.page_size
        table = self._image.addresses.phys(self._word(place[0]))
        found = [place, (table, table + page)]
        size = self._types.sizeof("struct mem_section")
        has_usage = self._types.has("struct mem_section", "usage")
        bits = self._types.member("struct mem_section", "usage" if has_usage else "pageblock_flags").offset
        for root in {self._word(table + offset) for offset in range(0, page, _POINTER)} - {0}:
            rows = self._at(root, page)
            found.append(rows)
            found += [
                self._at(usage, 128)
                for row in range(rows[0], rows[1] - size + 1, size)
                if (usage := self._word(row + bits))
            ]
        return found

    def nodes(self) -> list[tuple[int, int]]:
        place = self._variable("node_data")
        if place is None:
            alone = self._variable("contig_page_data")
            return [] if alone is None else [alone]
        size = self._types.sizeof("struct pglist_data")
        nodes = {self._word(at) for at in range(place[0], place[1], _POINTER)} - {0}
        return [place, *(self._at(node, size) for node in sorted(nodes))]

    def regions(self, *names: str) -> list[tuple[int, int]]:
        regions = (self._image.vmlinux.regions.get(name) for name in names)
        return [self._link(each.load, each.size) for each in regions if each is not None]

    def per_cpu(self) -> list[tuple[int, int]]:
        base, unit = self._variable("pcpu_base_addr"), self._variable("pcpu_unit_size")
        if base is None or unit is None:
            return []
        size = self._word(unit[0]) & 0xFFFFFFFF
        start = self._word(base[0])
        return [self._at(start + cpu * size, size) for cpu in range(self._image.state.cpus)] if start else []

    def cma(self) -> list[tuple[int, int]]:
        place = self._variable("cma_areas")
        if place is None or not self._image.state.cma:
            return []
        size = self._types.sizeof("struct cma") * len(self._image.state.cma)
        return [(place[0], min(place[0] + size, place[1]))]

    def _variable(self, name: str) -> tuple[int, int] | None:
        try:
            link, ctype = self._image.vmlinux.variable(name)
        except KeyError:
            return None
        return self._link(link, ctype.size)

    def _link(self, address: int, size: int) -> tuple[int, int]:
        phys = self._image.addresses.kernel_phys(address)
        return phys, phys + size

    def _at(self, address: int, size: int) -> tuple[int, int]:
        phys = self._image.addresses.phys(address)
        return phys, phys + size

    def _word(self, phys: int) -> int:
        try:
            return int.from_bytes(self._image.memory.read(phys, _POINTER), "little")
        except NotRamError:
            return 0
