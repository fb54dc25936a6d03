"""What every decoder must find in the dump of a machine, in the decoders' own terms."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .alloc_tags import TagTruth
from .truth_free import FreeTruth, free_truth
from .truth_holders import PageHolder, page_holders
from .truth_mapcount import FolioMappings, folio_mappings
from .truth_owner import OwnerTruth, owner_truth
from .truth_pinned import PinnedPage, pinned_pages

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Truth"]


@dataclass(frozen=True)
class Truth:
    """The truth about a machine, as of now. Each part is computed when first asked for.

    :ivar machine: The machine; the truth is about its present state, so it must not go on.
    """

    machine: Machine

    @classmethod
    def of(cls, machine: Machine) -> Truth:
        """The truth about a machine."""
        return cls(machine)

    @cached_property
    def free(self) -> FreeTruth:
        """Free memory: the buddy allocator's blocks, per-CPU pages, guard pages, what is reported."""
        return free_truth(self.machine)

    @cached_property
    def owners(self) -> OwnerTruth:
        """page_owner's records, and the page pinner's marks."""
        return owner_truth(self.machine)

    @cached_property
    def pinned(self) -> list[PinnedPage]:
        """Pages that resist migration, or are marked."""
        return pinned_pages(self.machine)

    @cached_property
    def holders(self) -> list[PageHolder]:
        """What holds which page, where that is in memory."""
        return page_holders(self.machine)

    @cached_property
    def folios(self) -> dict[int, FolioMappings]:
        """Mappings of every large folio, by its head."""
        return folio_mappings(self.machine)

    @cached_property
    def alloc_tags(self) -> dict[str, TagTruth]:
        """What each function has allocated; nothing where memory is not profiled."""
        tags = self.machine.alloc_tags
        return {} if tags is None else tags.truth()

    def to_json(self) -> dict[str, Any]:
        """The truth as plain data; of pages by the thousand only sums."""
        free, owners = self.free, self.owners
        held = {page.owner_handle for page in self.pinned if page.owner_handle is not None}
        chains = sorted(owners.by_stack.values(), key=lambda each: -each.pages)
        return {
            "pinned": [
                {**asdict(page), "kind": page.kind.name.lower(), "evidence": list(page.evidence)}
                for page in self.pinned
            ],
            "holders": [asdict(each) for each in self.holders],
            "call_chains": [asdict(each) | {"frames": list(each.frames)} for each in chains],
            "held_call_chains": {str(handle): list(owners.stacks[handle]) for handle in sorted(held)},
            "special_handles": owners.special,
            "marked": owners.marked.tolist(),
            "mixed_pageblocks": [
                {"node": node, "zone": zone, **counts} for (node, zone), counts in owners.mixed.items()
            ],
            "free_blocks": [
                {"node": node, "zone": zone, "order": order, "migratetype": kind, "blocks": len(heads)}
                for (node, zone, order, kind), heads in free.free.items()
            ],
            "per_cpu_pages": [
                {"node": node, "zone": zone, "cpu": cpu, "blocks": len(blocks.pfn)}
                for (node, zone, cpu), blocks in free.pcp.items()
            ],
            "reported_blocks": dict(sorted(Counter(free.reported.order.tolist()).items())),
            "alloc_tags": {name: asdict(each) for name, each in self.alloc_tags.items()},
            "guard_blocks": len(free.guards.pfn),
            "large_folios": [
                {
                    "head_pfn": each.head_pfn,
                    "order": each.order,
                    "kind": each.kind.name.lower(),
                    "mapcount": each.mapcount,
                    "entire_mapcount": each.entire_mapcount,
                    "partially_mapped": each.partially_mapped,
                    "double_map": each.double_map,
                }
                for each in self.folios.values()
            ],
        }
