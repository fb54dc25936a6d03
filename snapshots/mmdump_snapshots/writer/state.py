"""What the memory of a machine says, before it has a layout: what stands between a source and the writer.

A source is the model (:mod:`.modelstate`) or a real dump (:mod:`.dumpstate`). It says what the kernel knows
of each page by name: flags, types, zones, migratetypes and members have the kernel's names and no numbers.
The writer gives them the bits, offsets and addresses of one kernel. Pages are asked for in chunks, never all
at once, so that a machine of 64 GiB is written as its file grows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.blockstate import BioState, DirectIoState, DiskState
from mmdump_snapshots.writer.pinnerstate import CapturedState, PinnerState, RingState
from mmdump_snapshots.writer.tagstate import SlabState, TagState
from mmdump_snapshots.writer.tracestate import TraceState

__all__ = [
    "CHUNK",
    "FOLIO_FIELDS",
    "LRU_LISTS",
    "MIGRATETYPES",
    "BioState",
    "CapturedState",
    "CmaState",
    "DepotState",
    "DirectIoState",
    "DiskState",
    "Folios",
    "NodeState",
    "OwnerColumns",
    "PageColumns",
    "PageExtState",
    "PinnerState",
    "PipeState",
    "Record",
    "ReportingState",
    "RingState",
    "State",
    "TaskState",
    "ZoneState",
]

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Pages that are laid out at once: no folio of the buddy allocator crosses a multiple of it.
CHUNK = 1 << 16

#: ``enum migratetype`` by name. A pageblock's number here is its index in this tuple.
MIGRATETYPES = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE")

#: ``enum lru_list`` by name.
LRU_LISTS = ("INACTIVE_ANON", "ACTIVE_ANON", "INACTIVE_FILE", "ACTIVE_FILE", "UNEVICTABLE")


@dataclass(frozen=True)
class PageColumns:
    """The pages [start, start + n), one row each. All arrays have shape (n,).

    :ivar flags: Bit i is the flag ``State.page_flags[i]``, uint64. Neither zone nor node.
    :ivar zone: Index into ``State.zone_names``, uint8.
    :ivar node: NUMA node, uint8.
    :ivar type: Index into ``State.page_types``, uint8; 0 where ``_mapcount`` counts.
    :ivar refcount: ``_refcount``, int32.
    :ivar mapcount: ``_mapcount + 1``, int32, of pages without a type.
    :ivar tail: Distance of a compound page's tail from its head, uint32; 0 elsewhere.
    :ivar head_order: Order of the compound page, for its tails, uint8.
    :ivar mapping: ``mapping`` with its tag bits, a virtual address, uint64.
    :ivar index: uint64.
    :ivar private: uint64; the order of free blocks too.
    :ivar memcg_data: uint64.
    :ivar type_data: Low bits of the word that the type is in, uint32; None for none.
    :ivar links: The words of ``lru``, next and prev, uint64 of shape (n, 2), where the source has them; None
        where only lists say which page follows which.
    """

    start: int
    flags: U64
    zone: U8
    node: U8
    type: U8
    refcount: I32
    mapcount: I32
    tail: U32
    head_order: U8
    mapping: U64
    index: U64
    private: U64
    memcg_data: U64 | None = None
    type_data: U32 | None = None
    links: U64 | None = None

    def __len__(self) -> int:
        return len(self.flags)


#: What a folio knows beyond its first page: counts without the -1 bias that most of them are stored with.
FOLIO_FIELDS = (
    "entire_mapcount",
    "nr_pages_mapped",
    "large_mapcount",
    "pincount",
    "mm_id_0",
    "mm_id_1",
    "mm_id_mapcount_0",
    "mm_id_mapcount_1",
)


@dataclass(frozen=True)
class Folios:
    """The compound pages whose heads are in a range, one row each.

    :ivar pfn: Their heads, ascending, int64.
    :ivar order: uint8.
    :ivar flags: Flags of the folio that its first tail carries -> which folios have them: ``hugetlb``,
        ``large_rmappable``, ``partially_mapped``, ``double_map``. What is missing is False.
    :ivar fields: :data:`FOLIO_FIELDS` -> int64 array; what is missing is 0.
    """

    pfn: I64
    order: U8
    flags: Mapping[str, Bools]
    fields: Mapping[str, I64] = field(default_factory=dict)


@dataclass(frozen=True)
class ZoneState:
    """A zone, populated or not.

    :ivar name: As the kernel prints it: DMA, DMA32, Normal, Movable, Device.
    :ivar free: Blocks of each order and migratetype, ``free[order][name]`` -> head PFNs in list order, int64.
    :ivar pcp: Per-CPU pages, ``pcp[cpu][index]`` -> PFNs in list order, int64.
    :ivar watermarks: min, low and high, pages.
    :ivar lowmem_reserve: Pages kept from those who can use a zone of that name, but no higher one.
    :ivar nr_reserved_highatomic: Pages of pageblocks of the HIGHATOMIC reserve.
    """

    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    watermarks: tuple[int, int, int]
    free: Sequence[Mapping[str, I64]]
    pcp: Sequence[Sequence[I64]] = ()
    lowmem_reserve: Mapping[str, int] = field(default_factory=dict)
    nr_reserved_highatomic: int = 0

    @property
    def nr_free(self) -> int:
        """Free pages, as ``NR_FREE_PAGES`` counts them: on lists of the buddy allocator, and not isolated."""
        return sum(
            len(pfns) << order
            for order, lists in enumerate(self.free)
            for name, pfns in lists.items()
            if name != "ISOLATE"
        )


@dataclass(frozen=True)
class NodeState:
    """A NUMA node.

    :ivar lru: List name of :data:`LRU_LISTS` -> PFNs in list order, int64.
    :ivar deferred_split: Heads of the folios on the queue to split, in order of arrival, int64; None where
        the queue is not known, and no links are written.
    """

    number: int
    start_pfn: int
    spanned: int
    present: int
    zones: Sequence[ZoneState]
    lru: Mapping[str, I64] = field(default_factory=dict)
    deferred_split: I64 | None = None


@dataclass(frozen=True)
class OwnerColumns:
    """page_ext entries of the pages [start, start + n).

    :ivar flags: Bit i is ``State.ext_flags[i]``, uint64.
    :ivar members: Member of ``struct page_owner`` -> array; ``comm`` is of dtype S16.
    :ivar pinner: Member of ``struct page_pinner`` (Android) -> array.
    """

    flags: U64
    members: Mapping[str, NDArray[np.generic]]
    pinner: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True)
class PageExtState:
    """page_ext as it was set up at boot.

    :ivar stride: Bytes per entry; 0 when there are none.
    :ivar has_flags: Whether entries begin with a flags word.
    :ivar clients: Enabled client -> offset and size of its data, in bytes.
    :ivar built: Clients that this kernel was built with, enabled or not.
    :ivar tables: Section number -> virtual address of its table (not biased).
    """

    stride: int
    has_flags: bool
    clients: Mapping[str, tuple[int, int]]
    tables: Mapping[int, int]


@dataclass(frozen=True)
class Record:
    """A stack in the depot.

    :ivar frames: Return addresses, innermost first.
    :ivar count: ``count.refs.counter`` (6.8 and newer).
    """

    handle: int
    hash: int
    frames: tuple[int, ...]
    pool: int
    offset: int
    count: int = 1


@dataclass(frozen=True)
class DepotState:
    """The stack depot.

    :ivar pools: Virtual addresses of the pools.
    :ivar pool: Index of the pool that is being filled.
    :ivar used: Bytes of it that are used.
    :ivar hash_mask: Buckets of the hash table, less one.
    :ivar special: ``dummy_handle``, ``failure_handle`` and ``early_handle`` of mm/page_owner.c by name.
    :ivar listed: Stacks that page_owner keeps a list of, newest first (6.9 and newer): handle, and virtual
        address of the entry; 0 for those that are variables.
    """

    pools: Sequence[int]
    records: Sequence[Record]
    pool: int
    used: int
    hash_mask: int
    special: Mapping[str, int]
    listed: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class CmaState:
    """A CMA area.

    :ivar ranges: Base PFN and pages of each of its ranges.
    :ivar allocated: For each range, one truth value per bit of its bitmap.
    :ivar succeeded: Pages that it gave out, ever.
    :ivar failed: Pages that were asked of it in vain.
    """

    name: str
    ranges: Sequence[tuple[int, int]]
    order_per_bit: int
    allocated: Sequence[Bools]
    succeeded: int = 0
    failed: int = 0


@dataclass(frozen=True)
class TaskState:
    """A task.

    :ivar address: Virtual address of its ``task_struct`` where it has one; 0 for the writer to choose.
    """

    comm: str
    pid: int
    tgid: int
    address: int = 0


@dataclass(frozen=True)
class PipeState:
    """A pipe.

    :ivar pid: The process that has both ends open.
    :ivar buffers: Physical address of the array of ``struct pipe_buffer``.
    :ivar slots: What stands in each slot of it: the PFN of the page that is or was there, 0 for none.
    :ivar tail: Buffers that were ever consumed.
    :ivar used: Buffers in use.
    """

    pid: int
    buffers: int
    slots: Sequence[int]
    tail: int
    used: int


@dataclass(frozen=True)
class ReportingState:
    """Free page reporting.

    :ivar state: ``pr_dev_info->state``: 0 idle, 1 requested, 2 active; None when no device is registered.
    :ivar enabled: The static key.
    :ivar order: ``page_reporting_order``; None where nobody set it.
    :ivar device_order: ``pr_dev_info->order`` (5.14): what the device asked for, 0 for nothing.
    :ivar capacity: ``pr_dev_info->capacity`` (7.2).
    """

    state: int | None = None
    enabled: bool = False
    order: int | None = None
    device_order: int = 0
    capacity: int = 32


class State(ABC):
    """A machine's memory, as a source knows it.

    :ivar release: What ``uname -r`` prints, or None for what the profile is called.
    :ivar ram: PFN ranges [start, end) of memory, ascending and disjoint.
    :ivar page_flags: Flags in the order of their bits in :attr:`PageColumns.flags`, as in ``PG_locked``.
    :ivar page_types: Types in the order of their numbers, as in ``buddy``; the first is none.
    :ivar zone_names: Zones in the order of their numbers in :attr:`PageColumns.zone`.
    :ivar ext_flags: page_ext flags in the order of their bits, as in ``OWNER``.
    :ivar batches: Per-CPU batches of folios, ``lru_add`` and ``mlock``: for each CPU the heads' PFNs, times
        4, with what mlock marks in the low bits of its pointers.
    :ivar reserved: PFN ranges that the writer may fill with what the kernel keeps itself in.
    :ivar switches: Boot-time switches that are on, by the name of their static key.
    :ivar shared_flags: Clients of page_ext that say that they use its flags word (6.3 and newer).
    :ivar pinner: Android's page pinner; None where there is none.
    :ivar tags: Memory allocation profiling; None where it is off, or the source does not know.
    :ivar slabs: All slabs whose objects the source knows.
    :ivar trace: What ftrace has recorded; None where it was never used, or the source does not know.
    :ivar clock: ``local_clock()``, ns; 0 where the source does not know it.
    :ivar pipes: Pipes that processes have open.
    :ivar direct_io: Direct I/O to block devices.
    """

    release: str | None = None
    page_shift: int
    ram: Sequence[tuple[int, int]]
    reserved: Sequence[tuple[int, int]]
    page_flags: Sequence[str]
    page_types: Sequence[str]
    zone_names: Sequence[str]
    ext_flags: Sequence[str]
    nodes: Sequence[NodeState]
    cpus: int
    page_ext: PageExtState | None
    depot: DepotState | None
    cma: Sequence[CmaState]
    batches: Mapping[str, Sequence[Sequence[int]]]
    tasks: Sequence[TaskState]
    reporting: ReportingState
    switches: frozenset[str]
    shared_flags: frozenset[str] = frozenset({"page_owner", "page_pinner", "page_pin_owner"})
    pinner: PinnerState | None = None
    tags: TagState | None = None
    slabs: Sequence[SlabState] = ()
    trace: TraceState | None = None
    clock: int = 0
    pipes: Sequence[PipeState] = ()
    direct_io: Sequence[DirectIoState] = ()

    @property
    def end_pfn(self) -> int:
        """One past the highest PFN of memory."""
        return max(end for _, end in self.ram)

    @abstractmethod
    def pages(self, start: int, stop: int) -> PageColumns:
        """The pages [start, stop), which lie in one chunk."""

    @abstractmethod
    def folios(self, start: int, stop: int) -> Folios:
        """The compound pages whose heads are in [start, stop)."""

    @abstractmethod
    def owners(self, start: int, stop: int) -> OwnerColumns | None:
        """The page_ext entries of [start, stop); None where none was ever written, so that all are zero."""

    @abstractmethod
    def pageblocks(self, start: int, stop: int) -> tuple[U8, Bools]:
        """Pageblocks that begin in [start, stop): index into :data:`MIGRATETYPES`, and which are isolated."""

    def tag_refs(self, start: int, stop: int) -> NDArray[np.uint16] | None:  # noqa: ARG002
        """Of the pages [start, stop): index into ``tags.functions`` plus one, or 0; None where all are 0."""
        return None
