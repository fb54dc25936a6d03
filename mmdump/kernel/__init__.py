"""What more than one plugin needs of the kernel, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, TypeVar

from drgn import BadDataError, FaultError

from mmdump.errors import IncompleteError, MmdumpError, UnsupportedError
from mmdump.kernel.cma import CmaArea, read_cma_areas
from mmdump.kernel.depot_records import DepotRecords, read_records
from mmdump.kernel.depot_state import DepotState, read_depot_state
from mmdump.kernel.files import OpenFiles, read_open_files
from mmdump.kernel.freelists import ListHeads, read_list_heads
from mmdump.kernel.memcg import MemoryCgroups, read_memory_cgroups
from mmdump.kernel.memmap import MemMap, read_memmap
from mmdump.kernel.names import FlagNames, PageFlagText, read_flag_fields, read_flag_names
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import PageExtClient, PageExtLayout, read_page_ext, read_page_ext_layout
from mmdump.kernel.page_layout import PageLayout, read_page_layout
from mmdump.kernel.pageblock import PageblockLayout, read_pageblock_layout, read_pageblocks
from mmdump.kernel.pcp import PerCpuPages, read_per_cpu_pages
from mmdump.kernel.references import FolioBatches, read_folio_batches
from mmdump.kernel.stackdepot import StackDepot, read_stack_depot_layout
from mmdump.kernel.symbols import Symbols, read_kallsyms
from mmdump.kernel.tasks import Tasks, read_tasks
from mmdump.kernel.zones import Zone, ZoneBits, read_zone_bits, read_zones
from mmdump.kernel.zonestate import ZoneState, read_zone_states
from mmdump.target.faults import damage_hint, fault_words

if TYPE_CHECKING:
    from mmdump.holders import Recogniser
    from mmdump.target import Target

__all__ = ["Kernel"]

T = TypeVar("T")


def _kernel_fact(what: str) -> Callable[[Callable[[Kernel], T]], cached_property[T]]:
    """A fact about the kernel, read once; what goes wrong while it is read becomes a clear error.

    That it cannot be read is found out once, too: to look through damaged tables may take long.

    :param what: What the fact is called in such an error.
    """

    def decorate(read: Callable[[Kernel], T]) -> cached_property[T]:
        def translated(kernel: Kernel) -> T:
            try:
                return read(kernel)
            except (FaultError, BadDataError) as error:
                raise IncompleteError(
                    f"{what} could not be read: {fault_words(error)}", damage_hint(kernel.target.dump)
                ) from error
            except (OSError, OverflowError, ValueError) as error:
                raise IncompleteError(
                    f"{what} could not be made out: {error}", "The dump or its debug info may be damaged."
                ) from error
            except (LookupError, AttributeError, TypeError) as error:
                raise UnsupportedError(
                    f"mmdump does not know {what} of this kernel: {error}",
                    "Is the debug info complete, and that of this kernel?",
                ) from error

        @wraps(read)
        def guarded(kernel: Kernel) -> T:
            failed: dict[str, MmdumpError] = vars(kernel).setdefault("_failed", {})
            if read.__name__ in failed:
                raise copy(failed[read.__name__])
            try:
                return translated(kernel)
            except MmdumpError as error:
                # A copy has no traceback, which would keep all that was read alive.
                failed[read.__name__] = copy(error)
                raise

        return cached_property(guarded)

    return decorate


class Kernel:
    """The kernel of a target. Everything is read when first asked for, and once.

    :param target: An opened dump or live kernel.
    :param clients: The users of page_ext whose data can be asked for, as plugins declare them.
    :param recognisers: Gives those who know what holds a page, as plugins declare them; None for those that
        come with mmdump.
    """

    def __init__(
        self,
        target: Target,
        clients: Iterable[PageExtClient] = (),
        recognisers: Callable[[], Sequence[Recogniser]] | None = None,
    ) -> None:
        self.target = target
        self.recognisers = recognisers
        #: Told of what takes long besides the pass over the page array, (done, in all) in pages.
        self.progress: Callable[[int, int], None] | None = None
        self._clients: Sequence[PageExtClient] = tuple(clients)

    @_kernel_fact("the page array")
    def memmap(self) -> MemMap:
        """Valid PFN ranges and where the page array is."""
        return read_memmap(self.target)

    @_kernel_fact("struct page")
    def page_layout(self) -> PageLayout:
        """How struct page and struct folio are laid out."""
        return read_page_layout(
            self.target.prog, self.memmap.vmemmap, self.target.page_shift, self.target.vmcoreinfo
        )

    @_kernel_fact("page_ext")
    def page_ext(self) -> PageExtLayout:
        """page_ext and its clients."""
        layout = read_page_ext_layout(self.target.prog, self._clients)
        # Up to 6.2 the size of an entry is that of its flags word also where nobody wants page_ext, so that
        # there is none.
        wanted = any(state.enabled or state.unreadable for state in layout.clients.values())
        if layout.stride and not wanted and not self.memmap.sections.page_ext.any():
            layout = replace(layout, stride=0, flags={}, dtype=None)
        return layout

    @_kernel_fact("pageblocks")
    def pageblocks(self) -> PageblockLayout:
        """Order of pageblocks and names of migratetypes."""
        return read_pageblock_layout(self.target.prog, self.target.page_shift)

    @_kernel_fact("the layout of page flags")
    def zone_bits(self) -> ZoneBits:
        """Where page->flags keeps zone and node."""
        return read_zone_bits(self.target.prog)

    @_kernel_fact("the zones")
    def _zones(self) -> tuple[list[Zone], int]:
        return read_zones(self.target.prog)

    @property
    def zones(self) -> list[Zone]:
        """The populated zones of all nodes."""
        return self._zones[0]

    @property
    def zone_garbage(self) -> int:
        """How many nodes and zones there are besides that are garbage, or could not be read."""
        return self._zones[1]

    @_kernel_fact("the free lists")
    def list_heads(self) -> ListHeads:
        """The heads of all free lists of the buddy allocator."""
        return read_list_heads(self.target.prog, self.target.reader, self.memmap)

    @_kernel_fact("the zones' counters")
    def zone_states(self) -> list[ZoneState]:
        """Counters and watermarks of the populated zones."""
        return read_zone_states(self.target.prog)

    @_kernel_fact("the per-CPU lists of free pages")
    def per_cpu_pages(self) -> PerCpuPages:
        """Free pages that CPUs keep for themselves."""
        return read_per_cpu_pages(self.target.prog, self.memmap, self.target.page_shift)

    @_kernel_fact("the CMA areas")
    def _cma(self) -> tuple[list[CmaArea], int]:
        return read_cma_areas(self.target.prog, self.memmap.end_pfn)

    @property
    def cma_areas(self) -> list[CmaArea]:
        """Areas reserved for contiguous allocation."""
        return self._cma[0]

    @property
    def cma_garbage(self) -> int:
        """How many areas there are besides that are garbage, or could not be read."""
        return self._cma[1]

    @_kernel_fact("the per-CPU folio batches")
    def folio_batches(self) -> FolioBatches:
        """References held by the per-CPU folio batches."""
        return read_folio_batches(self.target.prog, self.memmap)

    @_kernel_fact("the tasks")
    def tasks(self) -> Tasks:
        """All tasks."""
        return read_tasks(self.target)

    @_kernel_fact("the open files")
    def open_files(self) -> OpenFiles:
        """All files that tasks have open."""
        return read_open_files(self.target, self.tasks)

    @_kernel_fact("memory cgroups")
    def memory_cgroups(self) -> MemoryCgroups | None:
        """Memory cgroups of pages; None where this kernel has none."""
        return read_memory_cgroups(self.target.prog)

    @_kernel_fact("the stack depot")
    def stack_depot(self) -> StackDepot | None:
        """Stacks by handle; None where this kernel has no stack depot."""
        layout = read_stack_depot_layout(self.target.prog, self.target.reader)
        return None if layout is None else StackDepot(self.target.reader, layout)

    @_kernel_fact("the stack depot")
    def depot_state(self) -> DepotState | None:
        """How full the stack depot is, and what it counts; None where this kernel has none."""
        depot = self.stack_depot
        return None if depot is None else read_depot_state(self.target.prog, depot.layout)

    @_kernel_fact("the stack depot")
    def depot_records(self) -> DepotRecords | None:
        """Every stack in the depot; None where this kernel has none."""
        depot, state = self.stack_depot, self.depot_state
        if depot is None or state is None:
            return None
        return read_records(self.target.reader, depot.layout, state)

    @_kernel_fact("the symbol table")
    def symbols(self) -> Symbols:
        """Addresses as text."""
        return Symbols(self.target.prog, read_kallsyms(self.target))

    @_kernel_fact("the names of page flags")
    def page_flag_names(self) -> FlagNames:
        """Names of page flags."""
        bits = (1 << self.page_layout.flags.get("__NR_PAGEFLAGS", 24)) - 1
        return read_flag_names(self.target.prog, "pageflag_names", bits)

    @_kernel_fact("the names of page flags")
    def page_flag_text(self) -> PageFlagText:
        """Page flags as ``%pGp`` prints them."""
        return PageFlagText(self.page_flag_names, tuple(read_flag_fields(self.target.prog)))

    @_kernel_fact("the names of gfp flags")
    def gfp_names(self) -> FlagNames:
        """Names of gfp masks."""
        return read_flag_names(self.target.prog, "gfpflag_names", (1 << 64) - 1)

    def pages(self, start: int, end: int, *, ext: bool = False, blocks: bool = True) -> PageRange:
        """Read the pages [start, end) in bulk.

        :param start: First PFN, of a valid range; see :meth:`.MemMap.chunks`.
        :param ext: Whether their page_ext entries will be needed too.
        :param blocks: Whether the migratetypes of their pageblocks will be.
        """
        reader, memmap = self.target.reader, self.memmap
        size = memmap.page_size
        chunk = reader.read(memmap.address(start), (end - start) * size)
        return PageRange(
            start,
            chunk.data,
            chunk.row_status(size, end - start),
            self.page_layout,
            self.zone_bits,
            read_pageblocks(reader, self.pageblocks, memmap.sections, start, end) if blocks else None,
            read_page_ext(reader, self.page_ext, memmap.sections, start, end)
            if ext and self.page_ext.dtype is not None
            else None,
            partial(self.pages, start, end, ext=ext, blocks=blocks) if self.target.live else None,
        )
