"""A machine: memory, the tasks that use it, and the kernel's mm between them.

This is where everything meets, and nothing more: each mechanism is a file of its own. Booting is in
:mod:`.memblock`, allocating and freeing in :mod:`.page_alloc`, the free lists below that in :mod:`.buddy`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import memblock
from .alloc_tags import AllocTags
from .android_pinner import AndroidPinner
from .buddy import Buddy
from .clock import Clock
from .debug_pagealloc import DebugPagealloc
from .gfp import Gfp
from .gup import Gup
from .objects import Objects
from .page_alloc import PageAlloc
from .page_ext import PageExt
from .page_owner import PageOwner
from .page_pinner import PagePinner
from .page_reporting import PageReporting
from .pagecache import SwapCache
from .pages import Pages
from .rmap import Rmap
from .stackdepot import StackDepot
from .swap_batches import FolioBatches
from .tasks import Calls, Task
from .zone import Migratetype, Node, Zone

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cma import CmaArea
    from .direct_io import DirectIo
    from .era import Era
    from .pipe import Pipe

__all__ = ["Boot", "Machine", "Task"]


@dataclass(frozen=True)
class Boot:
    """The kernel's command line.

    :param page_owner: ``page_owner=on``.
    :param page_pinner: ``page_pinner=on`` (RFC, Android).
    :param debug_pagealloc: ``debug_pagealloc=on``.
    :param guard_order: ``debug_guardpage_minorder=``.
    :param page_table_check: ``page_table_check=on`` (5.17).
    :param mem_profiling: ``sysctl.vm.mem_profiling=1`` (6.10).
    :param mem_profiling_compressed: ``sysctl.vm.mem_profiling=1,compressed`` (6.13), beside that.
    :param stack_depot_max_pools: ``stack_depot_max_pools=`` (6.17); None for all that handles can name.
    :param cma: CMA areas, name and bytes of each.
    :param movablecore: ``movablecore=``, bytes at the end of memory.
    :param page_reporting: Whether a balloon is there to report free pages to (5.7).
    :param trace_buf_size: ``trace_buf_size=``, bytes of each CPU's trace buffer; 0 for one that
        holds all, if that is not more than the kernel's default.
    :param trace_overwrite: ``trace_options=overwrite``; if not, what does not fit is not recorded.
    :param early_pages: How many pages are allocated before page_ext is set up, and never freed.
    """

    page_owner: bool = True
    page_pinner: bool = True
    debug_pagealloc: bool = False
    guard_order: int = 0
    page_table_check: bool = False
    mem_profiling: bool = False
    mem_profiling_compressed: bool = False
    stack_depot_max_pools: int | None = None
    cma: tuple[tuple[str, int], ...] = ()
    movablecore: int = 0
    page_reporting: bool = False
    early_pages: int = 64
    trace_buf_size: int = 0
    trace_overwrite: bool = True


class Machine:
    """A machine that has booted.

    :ivar arch: ``"x86_64"`` or ``"aarch64"``.
    :ivar pages: The page array.
    :ivar ram: PFN ranges [start, end) of memory, ascending.
    :ivar reserved: The PFN range of the kernel image and of everything allocated before the buddy allocator.
    :ivar nodes: NUMA nodes.
    :ivar zones: Populated zones of all nodes, by node, lowest first.
    :ivar cpu: The CPU that :attr:`current` runs on.
    :ivar tasks: All tasks.
    :ivar pipes: All pipes.
    :ivar direct_io: Direct I/O, that in flight and that which completed.
    :ivar current: The running task.
    :ivar comms: Names of tasks that page_owner refers to; the first is empty.
    :ivar migratetype: :class:`Migratetype` of each pageblock (index ``pfn >> era.pageblock_order``), uint8.
        Up to 6.16 isolation overwrites it.
    :ivar isolated: Which pageblocks are isolated, bool.
    :ivar cma: CMA areas; made by :func:`.memblock.boot` as ``CmaArea(machine, name, base_pfn, count)``.
    """

    def __init__(
        self,
        era: Era,
        *,
        arch: str = "x86_64",
        memory: int = 256 << 20,
        nodes: int = 1,
        cpus: int = 2,
        seed: int = 0,
        reserved: int | None = None,
        boot: Boot | None = None,
    ) -> None:
        self.era = era
        self.arch = arch
        self.boot = Boot() if boot is None else boot
        self.rng = random.Random(seed)  # noqa: S311 (the same machine for the same seed)
        self.clock = Clock()
        self.cpus = cpus
        self.cpu = 0
        self.comms = [""]
        self.tasks: list[Task] = []
        self.pipes: list[Pipe] = []
        self.direct_io: list[DirectIo] = []
        self.current = self.new_task("swapper/0", pid=0)
        #: The task that runs what is queued.
        self.kworker = self.current
        self._frames: list[tuple[str, ...]] = []

        self.ram = memblock.ram(era, arch, memory)
        self.reserved = memblock.reserved_range(era, arch, self.ram, reserved)
        section = 1 << (era.section_shift - era.page_shift)
        self.pages = Pages(-(-self.ram[-1][1] // section) * section)
        blocks = self.pages.count >> era.pageblock_order
        self.migratetype: NDArray[np.uint8] = np.full(blocks, Migratetype.MOVABLE, np.uint8)
        self.isolated: NDArray[np.bool_] = np.zeros(blocks, np.bool_)
        self.nodes: list[Node] = memblock.nodes(self, nodes)
        self.zones: list[Zone] = [zone for node in self.nodes for zone in node.zones]

        self.rmap = Rmap(self)
        self.gup = Gup(self)
        self.batches = FolioBatches(self)
        self.swap_cache = SwapCache(self)
        self.cma: list[CmaArea] = []
        self.stack_depot = StackDepot(self)
        # All of them are built in; the command line says which are on.
        self.debug_pagealloc: DebugPagealloc | None = DebugPagealloc(self)
        self.page_owner: PageOwner | None = PageOwner(self)
        self.page_pinner: PagePinner | None = AndroidPinner(self) if era.android else PagePinner(self)
        self.page_ext = PageExt(self)
        self.alloc_tags: AllocTags | None = None
        if self.boot.mem_profiling and era.alloc_tags:
            self.alloc_tags = AllocTags(self)
        self.page_reporting = PageReporting(self)
        self.buddy = Buddy(self)
        self.page_alloc = PageAlloc(self)
        self.objects = Objects(self)
        memblock.boot(self)
        if self.page_pinner is not None:
            self.page_pinner.late_init()

    # Who runs, and how it got here.

    def new_task(self, comm: str, pid: int | None = None, tgid: int | None = None) -> Task:
        """``copy_process()``: a new task; of its own thread group unless told otherwise."""
        if pid is None:
            pid = max((task.pid for task in self.tasks), default=0) + 1
        task = Task(comm, pid, pid if tgid is None else tgid)
        self.tasks.append(task)
        return task

    def task(self, comm: str, pid: int | None = None, tgid: int | None = None) -> Task:
        """The task of this name, and of this PID if that is given; a new one if there is none."""
        for task in self.tasks:
            if task.comm == comm and pid in (None, task.pid):
                return task
        return self.new_task(comm, pid, tgid)

    @contextmanager
    def running(self, task: Task, *frames: str, cpu: int | None = None) -> Iterator[Task]:
        """Let a task run.

        :param frames: Its call chain, innermost first.
        :param cpu: Where; on the same CPU as before unless told.
        """
        before = self.current, self.cpu, self._frames
        self.current, self._frames = task, [frames]
        if cpu is not None:
            self.cpu = cpu
        try:
            yield task
        finally:
            self.current, self.cpu, self._frames = before

    def calls(self, *frames: str) -> Calls:
        """Functions that the present ones call, innermost first: on the stack for the time of a with."""
        return Calls(self._frames, frames)

    def stack(self, *frames: str) -> tuple[str, ...]:
        """The whole call chain now, innermost first, with more frames on top."""
        for part in reversed(self._frames):
            frames += part
        return frames

    # Pages.

    def alloc_pages(self, order: int, gfp: Gfp = Gfp.KERNEL, node: int | None = None) -> int | None:
        """``alloc_pages()``: 2^order pages, with one reference; a compound page with ``Gfp.COMP``.

        :param node: Where to look first; the node of the CPU unless told.
        :return: The first PFN, or None without memory.
        """
        return self.page_alloc.alloc_pages(order, gfp, node)

    def free_pages(self, pfn: int, order: int) -> None:
        """``__free_pages()``: drop the allocator's reference; the pages are freed if it was the last."""
        self.page_alloc.free_pages(pfn, order)

    def alloc_pages_exact(self, size: int, gfp: Gfp = Gfp.KERNEL) -> int | None:
        """``alloc_pages_exact()``: as many pages as hold so many bytes, each with a reference of its own."""
        return self.page_alloc.alloc_pages_exact(size, gfp)

    def free_pages_exact(self, pfn: int, size: int) -> None:
        """``free_pages_exact()``."""
        self.page_alloc.free_pages_exact(pfn, size)

    def split_page(self, pfn: int, order: int) -> None:
        """``split_page()``: of a block that is not compound, make 2^order pages."""
        self.page_alloc.split_page(pfn, order)

    def get_page(self, pfn: int) -> None:
        """``get_page()``: a reference of the page's folio."""
        self.pages.refcount[self.pages.head(pfn)] += 1

    def put_page(self, pfn: int) -> None:
        """``put_page()``: drop a reference of the page's folio, which is freed if it was the last."""
        self.page_alloc.put_page(pfn)

    def drain_all_pages(self) -> None:
        """``drain_all_pages()``: all per-CPU pages go back to the buddy allocator."""
        for zone in self.zones:
            for pcp in zone.pcp:
                pcp.drain()

    def nr_free_pages(self, *, pcp: bool = False) -> int:
        """``nr_free_pages()``: pages in the free lists of all zones.

        :param pcp: Per-CPU pages too.
        """
        free = sum(zone.free_pages for zone in self.zones)
        return free + pcp * sum(stock.count for zone in self.zones for stock in zone.pcp)

    # Where things are.

    def zone_of(self, pfn: int) -> Zone:
        """``page_zone()``.

        :raises LookupError: There is no memory.
        """
        for zone in self.zones:
            if zone.start_pfn <= pfn < zone.end_pfn:
                return zone
        raise LookupError(f"PFN {pfn} is in no zone")

    def node_of(self, pfn: int) -> Node:
        """``page_pgdat()``."""
        return self.nodes[self.zone_of(pfn).node]

    def node_of_cpu(self, cpu: int) -> int:
        """``cpu_to_node()``: CPUs are dealt out to the nodes one by one."""
        return cpu % len(self.nodes)

    def pageblock_migratetype(self, pfn: int) -> Migratetype:
        """``get_pfnblock_migratetype()``: ISOLATE while the block is isolated, whatever it was before."""
        return Migratetype(self.buddy.migratetype(pfn))
