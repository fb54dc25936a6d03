"""The contract of a recogniser: who knows what it is that has a page's address somewhere in memory.

A recogniser looks at the hits of a search and says of those it knows what they are. It goes from something
that has a name (the open files, the sockets, a symbol) to the memory where that keeps its pages, and asks
which hits lie there::

    def find(case):
        for file in case.files.with_operations("my_fops"):
            table = Object(case.prog, "struct my_table *", file.private_data)
            start, size = table.pages.value_(), 8 * table.count.value_()
            for hit in case.within(start, size):
                yield Holder(hit, "my driver", State.LIVE, f"page {(hit.address - start) // 8}",
                             owners=case.owners(file), references=1)

    @hookimpl
    def mmdump_holders():
        return [Recogniser("my_driver", find)]

Where there is no way down from a name, :meth:`Case.pointers` is the way up: it asks where in memory the
address of a structure stands. All that is asked for is searched for together, and the recognisers are called
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel
    from mmdump.kernel.files import OpenFile, OpenFiles
    from mmdump.kernel.tasks import Task, Tasks

__all__ = ["Case", "Counted", "Hit", "Holder", "Owner", "Place", "Recogniser", "State"]


class State(Enum):
    """What the address of a page, found somewhere in memory, is worth."""

    #: Something uses it there: it is known what, and what reference goes with it.
    LIVE = "live"
    #: It stands in memory that is in use, and nobody knows for what.
    POSSIBLE = "possible"
    #: It was left behind: in a freed object, a cleared slot, the dead part of a stack.
    STALE = "stale"


class Counted(Enum):
    """Where the reference that goes with a holder shows in the account of the page's references."""

    #: It is one of those that the account cannot explain.
    REFERENCE = "reference"
    #: A FOLL_PIN pin.
    PIN = "pin"
    #: That of the page cache or the swap cache.
    CACHE = "cache"
    #: That of ``page->private``: buffers.
    PRIVATE = "private"
    #: That of a per-CPU folio batch.
    BATCH = "batch"
    #: None: it uses the page while something else holds it.
    NONE = "none"


@dataclass(frozen=True)
class Place:
    """What a piece of memory belongs to.

    :param kind: slab, stack, vmalloc, per-CPU, image, module, page table, pages, user, free, unknown.
    :param name: Of the slab cache, symbol, task, or of what allocated it.
    :param start: Virtual address where the object (stack, area, variable) begins; 0 where that is unknown.
    :param size: Its bytes; 0 where that is unknown.
    :param state: Whether what lies there is in use.
    :param why: What the state rests on, in a few words.
    :param task: Whose stack it is.
    :param stack_id: The call chain that allocated it, where page_owner knows it and nothing better is known.
    """

    kind: str
    name: str = ""
    start: int = 0
    size: int = 0
    state: State = State.POSSIBLE
    why: str = ""
    task: Task | None = None
    stack_id: int | None = None


@dataclass(frozen=True)
class Hit:
    """A place where the address of a page stands.

    :param folio: PFN of the head of the folio that it leads to.
    :param folio_pages: Pages of the folio.
    :param pfn: The page that it leads to: the head, or a tail; with form span a page before the folio.
    :param form: page (the address of a ``struct page``), direct (of its memory), phys or pfn; span: the
        address of another page before it, followed by a length that reaches into the folio, as in a
        ``struct bio_vec`` over pages that lie side by side by chance. Most such are something else. A
        recogniser that comes by another way makes hits of its own, such as list.
    :param value: What stands there.
    :param tag: The low bits of it that are no part of the address.
    :param physical: Where it stands, physical address.
    :param address: The same as the kernel addresses it: by its direct map, vmalloc area or image.
    """

    folio: int
    folio_pages: int
    pfn: int
    form: str
    value: int
    tag: int
    physical: int
    address: int
    place: Place


@dataclass(frozen=True)
class Owner:
    """A process that has what holds a page.

    :param fd: By this file descriptor; None where it is none.
    """

    pid: int
    comm: str
    fd: int | None = None

    def text(self) -> str:
        """``pid 70 (work), fd 4``."""
        by = "" if self.fd is None else f", fd {self.fd}"
        return f"pid {self.pid} ({self.comm}){by}"


@dataclass(frozen=True)
class Holder:
    """What a hit is.

    :param kind: pipe, io_uring, bio, socket ...: one word or two.
    :param what: Which part of it, such as ``buffer 8 of 16``.
    :param name: What has a name on the way there: a device, a path, two ends of a connection.
    :param object: The address of the structure that it is about.
    :param owners: The processes that have it; none where there is none, or none was found.
    :param references: References (or pins) to the folio that go with it.
    """

    hit: Hit
    kind: str
    state: State
    what: str = ""
    name: str = ""
    object: int = 0
    owners: Sequence[Owner] = ()
    references: int = 0
    counted: Counted = Counted.REFERENCE


@dataclass(frozen=True)
class Recogniser:
    """Knows one sort of holder.

    :param name: Of it.
    :param find: Says which hits are its own, and what they are. May be called more than once, with more known
        each time. What it raises is reported, and the others go on.
    :param rank: Recognisers are called in ascending order, and hits that one has named are not shown to the
        next: those that know come before those that guess.
    """

    name: str
    find: Callable[[Case], Iterable[Holder]] = field(repr=False)
    rank: int = 50


class Case(Protocol):
    """What a recogniser has to go by."""

    @property
    def kernel(self) -> Kernel:
        """The kernel."""

    @property
    def prog(self) -> Program:
        """Its drgn Program."""

    @property
    def folios(self) -> Mapping[int, int]:
        """What is sought: PFNs of the heads of folios, and how many pages each has."""

    @property
    def hits(self) -> Sequence[Hit]:
        """The hits that no recogniser before this one has named, in order of address, but those of spans."""

    @property
    def spans(self) -> Sequence[Hit]:
        """Such hits of form span."""

    @property
    def tasks(self) -> Tasks:
        """All tasks."""

    @property
    def files(self) -> OpenFiles:
        """All open files."""

    def within(self, start: int, size: int) -> Sequence[Hit]:
        """The hits at addresses from ``start`` on, ``size`` bytes of them."""

    def place(self, address: int) -> Place | None:
        """What the memory at a virtual address belongs to; None where it is not mapped."""

    def owners(self, file: OpenFile | int) -> Sequence[Owner]:
        """The processes that have a file open."""

    def pointers(self, start: int, size: int = 1) -> Sequence[tuple[int, int]]:
        """Where in memory an address within these bytes stands: (address of the pointer, its value).

        Nothing at first: what was asked for is searched for, and all recognisers are called again.
        """
