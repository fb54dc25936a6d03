"""From folios to their holders: search, identify, recognise, and search again where that is asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmdump.errors import MmdumpError
from mmdump.holders import Counted, Hit, Holder, Owner, Place, State
from mmdump.kernel.arrays import I64, U64, Bools, quotients
from mmdump.kernel.layout import byteorder
from mmdump_holders.places import Places
from mmdump_holders.search import Found, Searched, Span, search

if TYPE_CHECKING:
    import polars as pl
    from drgn import Program

    from mmdump.holders import Recogniser
    from mmdump.kernel import Kernel
    from mmdump.kernel.files import OpenFile, OpenFiles
    from mmdump.kernel.tasks import Tasks

__all__ = ["Answer", "Forms", "find_holders", "spans_of"]

#: A recogniser may ask for pointers to what it found, and for pointers to what points there.
_ROUNDS = 4
#: Hits that are identified one by one; the rest is counted.
_MAX_PLACES = 1 << 14
#: Structures whose pointers are searched for in one pass, and pointers to each that are looked at.
_MAX_ASKED = 1 << 12
_MAX_POINTERS = 1 << 10
#: Pointers that are looked at after one pass.
_MAX_POINTERS_IN_ALL = 1 << 15
#: Pages that one bio_vec, fragment or scatterlist entry spans at most, as far as it is looked for.
_REACH = 1 << 10
#: Low bits of a pointer to struct page that may be a tag: scatterlists, netmem, encoded pages, batches.
_TAGS = 8
#: Of a page table entry, the bits of the physical address, on every architecture with 52 of them.
_PHYSICAL = (1 << 52) - 1


@dataclass(frozen=True)
class Forms:
    """In what forms, besides the address of its struct page, a page is searched for.

    :param physical: By addresses of its memory: physical ones (with whatever bits a page table entry has),
        and those of the direct map.
    :param pfn: By its PFN as a number of 64 bits.
    """

    physical: bool = False
    pfn: bool = False


@dataclass(frozen=True)
class Answer:
    """What holds some folios.

    :param holders: Every hit, and what it is; hits that nobody recognised are there too.
    :param searched: What was searched.
    :param passes: How often.
    :param failed: One sentence for each recogniser that failed.
    :param cut: One sentence for each limit that was met.
    """

    holders: Sequence[Holder]
    searched: Searched
    passes: int
    failed: Sequence[str] = ()
    cut: Sequence[str] = ()


def find_holders(
    kernel: Kernel,
    head: I64,
    pages: I64,
    runs: pl.DataFrame,
    forms: Forms | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answer:
    """Find what holds some folios.

    :param head: Their first PFNs, ascending and distinct, int64.
    :param pages: Pages of each, int64.
    :param runs: The memory to search; see :mod:`mmdump_holders.ranges`.
    """
    spans = spans_of(kernel, head, pages, forms or Forms())
    searched = search(kernel, runs, spans, progress)
    case = _Case(kernel, Places(kernel), dict(zip(head.tolist(), pages.tolist(), strict=True)))
    cut = []
    hits, left = _hits(case.places, head, pages, searched)
    if left or searched.dropped:
        cut.append(f"{left + searched.dropped} places beyond the first {len(hits)} were not looked at")
    hits = [hit for hit in hits if not kernel.target.live or _lasts(kernel, hit)]
    case.all = sorted(hits, key=lambda hit: (hit.address, hit.folio))
    passes = 1
    while True:
        holders, failed = _recognise(kernel, case)
        if not case.asked or passes >= _ROUNDS:
            break
        case.answer(runs, progress)
        passes += 1
    if case.asked:
        cut.append("some chains of pointers are longer than what was followed")
    if case.refused:
        cut.append(f"pointers to {case.refused} structures were not searched for")
    return Answer(holders, searched, passes, failed, cut)


def spans_of(kernel: Kernel, head: I64, pages: I64, forms: Forms) -> list[Span]:
    """What is searched for to find folios, in all the forms that are wanted."""
    memmap, shift = kernel.memmap, np.uint64(kernel.target.page_shift)
    first, last = head.astype(np.uint64), (head + pages).astype(np.uint64)
    base, size = np.uint64(memmap.vmemmap), np.uint64(memmap.page_size)
    sought = _Pages(head, pages, memmap.vmemmap, memmap.page_size, kernel.target.page_shift)
    start, end = _disjoint(
        zip(np.maximum(head - _REACH, 0).tolist(), (pages + np.minimum(head, _REACH)).tolist(), strict=True)
    )
    spans = [Span("page", base + start * size, base + end * size, keep=sought.keep)]
    if forms.physical:
        spans.append(Span("phys", first << shift, last << shift, _PHYSICAL))
        direct = np.uint64(Places(kernel).direct(0))
        if direct:
            spans.append(Span("direct", direct + (first << shift), direct + (last << shift)))
    if forms.pfn:
        spans.append(Span("pfn", first, last))
    return spans


@dataclass(frozen=True)
class _Pages:
    """The folios that are sought, as words of memory may lead to them."""

    head: I64
    pages: I64
    vmemmap: int
    page_size: int
    page_shift: int

    def folio(self, pfn: I64) -> tuple[I64, Bools]:
        """The last folio that begins at or before each PFN, and whether the PFN lies in it."""
        row = np.searchsorted(self.head, pfn, "right") - 1
        return row, (row >= 0) & (pfn < self.head[row] + self.pages[row])

    def page(self, value: U64) -> tuple[I64, I64]:
        """The PFN whose struct page a word leads to, and how far into it."""
        return quotients((value - np.uint64(self.vmemmap)).astype(np.int64), self.page_size)

    def reach(self, following: U64) -> I64:
        """How many pages the length and offset behind a page's address span; 1 where there are none."""
        extent = (following & np.uint64(0xFFFFFFFF)) + (following >> np.uint64(32))
        pages = np.minimum(
            (extent + np.uint64((1 << self.page_shift) - 1)) >> np.uint64(self.page_shift), _REACH
        )
        garbage = extent > np.uint64(_REACH << self.page_shift)
        return np.where(garbage, 1, np.maximum(pages.astype(np.int64), 1))

    def keep(self, value: U64, following: U64) -> Bools:
        """Whether words lead to a sought folio: by themselves, or by what they span.

        What points into the middle of a struct page is a list that the page is on.
        """
        pfn, rest = self.page(value)
        row, inside = self.folio(pfn + self.reach(following) - 1)
        spanned = (row >= 0) & (pfn < self.head[row] + self.pages[row])
        return (rest < _TAGS) & (inside | spanned)


def _hits(places: Places, head: I64, pages: I64, searched: Searched) -> tuple[list[Hit], int]:
    """The hits with the places they lie in, and how many were left out."""
    kernel = places.kernel
    sought = _Pages(head, pages, kernel.memmap.vmemmap, kernel.memmap.page_size, kernel.target.page_shift)
    hits: list[Hit] = []
    left = 0
    for form, found in searched.found.items():
        for at, row, pfn, tag, how in _leads(places, sought, form, found):
            if len(hits) >= _MAX_PLACES:
                left += 1
                continue
            address, place = places.locate(int(found.physical[at]))
            physical, value = int(found.physical[at]), int(found.value[at])
            hits.append(Hit(int(head[row]), int(pages[row]), pfn, how, value, tag, physical, address, place))
    return hits, left


def _lasts(kernel: Kernel, hit: Hit) -> bool:
    """Whether a word of a live kernel's memory is still what it was when it was found."""
    chunk = kernel.target.reader.read_physical(hit.physical, 8)
    return chunk.complete and int(chunk.data.view(byteorder(kernel.target.prog) + "u8")[0]) == hit.value


def _leads(
    places: Places, sought: _Pages, form: str, found: Found
) -> Iterator[tuple[int, int, int, int, str]]:
    """Where words lead: (index of the word, row of the folio, PFN, tag, form); spans to each folio."""
    value, shift = found.value, np.uint64(sought.page_shift)
    tag, reach = np.zeros(len(value), np.int64), np.ones(len(value), np.int64)
    if form == "page":
        pfn, tag = sought.page(value)
        reach = sought.reach(found.following)
    elif form == "pfn":
        pfn = value.astype(np.int64)
    else:
        low = np.uint64(places.direct(0) if form == "direct" else 0)
        mask = np.uint64(_PHYSICAL if form == "phys" else (1 << 64) - 1)
        pfn = (((value & mask) - low) >> shift).astype(np.int64)
    row, inside = sought.folio(pfn)
    last, _ = sought.folio(pfn + reach - 1)
    for at in range(len(value)):
        if inside[at]:
            yield at, int(row[at]), int(pfn[at]), int(tag[at]), form
        for other in range(int(row[at]) + 1, int(last[at]) + 1):
            yield at, other, int(pfn[at]), int(tag[at]), "span"


def _recognise(kernel: Kernel, case: _Case) -> tuple[list[Holder], list[str]]:
    """Ask all recognisers; what none of them knows remains what its place is."""
    holders: list[Holder] = []
    failed: list[str] = []
    # What was left behind is nobody's.
    case.show([hit for hit in case.all if hit.place.state is not State.STALE])
    for recogniser in _recognisers(kernel):
        try:
            found = [each for each in recogniser.find(case) if isinstance(each, Holder)]
        except MmdumpError:
            # This kernel has no tasks or files that can be read; the report says so.
            continue
        except Exception as error:  # a dump may be damaged, or a kernel of another form, in any way
            failed.append(f"recogniser {recogniser.name} failed: {type(error).__name__}: {error}")
            continue
        holders += found
        named = {id(each.hit) for each in found}
        case.show([hit for hit in [*case.hits, *case.spans] if id(hit) not in named])
    known = {id(each.hit) for each in holders}
    holders += [_unknown(hit) for hit in case.all if id(hit) not in known and hit.form != "span"]
    return holders, failed


def _recognisers(kernel: Kernel) -> Sequence[Recogniser]:
    if kernel.recognisers is not None:
        return kernel.recognisers()
    from mmdump_holders import mmdump_holders

    return sorted(mmdump_holders(), key=lambda each: (each.rank, each.name))


def _unknown(hit: Hit) -> Holder:
    return Holder(
        hit,
        hit.place.kind,
        hit.place.state,
        hit.place.why,
        hit.place.name,
        hit.place.start,
        counted=Counted.NONE,
    )


@dataclass(eq=False)
class _Case:
    """See :class:`mmdump.holders.Case`."""

    kernel: Kernel
    places: Places
    folios: dict[int, int]
    all: list[Hit] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    spans: list[Hit] = field(default_factory=list)
    #: What was asked for and is not known yet.
    asked: dict[tuple[int, int], None] = field(default_factory=dict)
    refused: int = 0
    _known: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)
    _addresses: list[int] = field(default_factory=list)

    @property
    def prog(self) -> Program:
        return self.kernel.target.prog

    @property
    def tasks(self) -> Tasks:
        return self.kernel.tasks

    @property
    def files(self) -> OpenFiles:
        return self.kernel.open_files

    def show(self, hits: list[Hit]) -> None:
        """Make these the hits that the next recogniser sees."""
        self.hits = [hit for hit in hits if hit.form != "span"]
        self.spans = [hit for hit in hits if hit.form == "span"]
        self._addresses = [hit.address for hit in self.hits]

    def within(self, start: int, size: int) -> Sequence[Hit]:
        return self.hits[bisect_left(self._addresses, start) : bisect_left(self._addresses, start + size)]

    def place(self, address: int) -> Place | None:
        physical = self.places.physical(address)
        if physical is not None:
            return self.places.locate(physical)[1]
        return self.places.virtual(address)

    def owners(self, file: OpenFile | int) -> Sequence[Owner]:
        address = file if isinstance(file, int) else file.address
        return [Owner(task.tgid, task.comm, fd) for task, fd in self.files.holders(address)]

    def pointers(self, start: int, size: int = 1) -> Sequence[tuple[int, int]]:
        wanted = (start, size)
        if wanted in self._known:
            return self._known[wanted]
        if len(self.asked) >= _MAX_ASKED:
            self.refused += 1
        elif start > 0 and size > 0:
            self.asked[wanted] = None
        return ()

    def answer(self, runs: pl.DataFrame, progress: Callable[[int, int], None] | None) -> None:
        """Search for all that was asked."""
        asked, self.asked = sorted(self.asked), {}
        start, end = _disjoint(asked)
        found = search(self.kernel, runs, [Span("pointers", start, end)], progress).found["pointers"]
        order = np.argsort(found.value, kind="stable")
        physical, value = found.physical[order], found.value[order]
        left = _MAX_POINTERS_IN_ALL
        for first, size in asked:
            low = int(np.searchsorted(value, np.uint64(first)))
            high = int(np.searchsorted(value, np.uint64(first + size)))
            known = self._known.setdefault((first, size), [])
            high = min(high, low + _MAX_POINTERS, low + left)
            left -= max(high - low, 0)
            for at in range(low, high):
                address, place = self.places.locate(int(physical[at]))
                if place.state is not State.STALE:
                    known.append((address, int(value[at])))


def _disjoint(asked: Iterable[tuple[int, int]]) -> tuple[U64, U64]:
    """Ranges (start, size) in order, which may overlap, as disjoint ones: starts and ends, uint64."""
    starts: list[int] = []
    ends: list[int] = []
    for start, size in asked:
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], start + size)
        else:
            starts.append(start)
            ends.append(start + size)
    return np.array(starts, np.uint64), np.array(ends, np.uint64)
