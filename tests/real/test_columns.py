"""The columns of the page array, against drgn's objects and against /proc/kpageflags."""

from __future__ import annotations

import random

import numpy as np
import pytest
from drgn import cast
from drgn.helpers.linux.mm import (
    compound_head,
    compound_order,
    for_each_valid_page_range,
    page_to_pfn,
    pfn_to_page,
)

from mmdump.helpers import page_ext, page_ext_data, page_owner, page_owner_allocated, page_pinner
from mmdump.kernel import Kernel
from mmdump.kernel.page import PageRange
from mmdump_page_owner.record import read_owners
from mmdump_page_pinner.marks import marked
from tests.conftest import Sample

# include/uapi/linux/kernel-page-flags.h
KPF_LRU, KPF_SLAB, KPF_BUDDY, KPF_MMAP, KPF_ANON = 5, 7, 10, 11, 12
KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_PGTABLE = 15, 16, 26


@pytest.fixture(scope="module")
def ranges(kernel: Kernel) -> list[PageRange]:
    return [kernel.pages(start, end, ext=True) for start, end in kernel.memmap.chunks()]


def test_valid_pfns_are_those_drgn_finds(kernel: Kernel) -> None:
    found = [(start, end) for start, end, _ in for_each_valid_page_range(kernel.target.prog)]
    assert [tuple(each) for each in kernel.memmap.ranges.tolist()] == found


def _some(pages: PageRange) -> list[int]:
    """Rows of every sort: random ones, and some heads, tails, buddies, mapped and marked pages."""
    chosen = random.Random(1)
    rows = set(chosen.sample(range(len(pages)), 150))
    for mask in (
        pages.is_head,
        pages.is_tail,
        pages.is_buddy,
        pages.is_type("slab"),
        pages.refcount > 1,
        pages.ext.has_flag("PAGE_EXT_PINNER"),
    ):
        found = np.flatnonzero(mask).tolist()
        rows |= set(chosen.sample(found, min(len(found), 30)))
    return sorted(rows)


def test_columns_are_what_drgn_reads_page_by_page(kernel: Kernel, ranges: list[PageRange]) -> None:
    prog = kernel.target.prog
    for pages in ranges:
        for row in _some(pages):
            page = pfn_to_page(prog, pages.start + row)
            assert pages.flags[row] == page.flags.value_()
            assert pages.refcount[row] == page._refcount.counter.value_()
            assert pages.raw_mapcount[row] == page._mapcount.counter.value_()
            assert pages.mapping[row] == page.mapping.value_()
            assert pages.private[row] == page.private.value_()
            head = compound_head(page)
            assert pages.head_pfn[row] == page_to_pfn(head).value_()
            if pages.is_head[row]:
                assert pages.folio_order[row] == compound_order(head).value_()


def test_large_folios_counts_are_what_drgn_reads(kernel: Kernel, ranges: list[PageRange]) -> None:
    prog = kernel.target.prog
    for pages in ranges:
        heads = np.flatnonzero(pages.is_head)
        mapcount, pincount = pages.folio_mapcount(heads), pages.folio_pincount(heads)
        for index, row in enumerate(heads.tolist()):
            folio = prog["vmemmap"][pages.start + row].address_of_()
            folio = type(folio)(prog, "struct folio *", folio.value_())
            assert mapcount[index] == folio._large_mapcount.counter.value_() + 1
            assert pincount[index] == folio._pincount.counter.value_()


def test_page_owner_records_are_what_the_helpers_read(kernel: Kernel, ranges: list[PageRange]) -> None:
    prog = kernel.target.prog
    for pages in ranges:
        record = pages.ext["page_owner"]
        for row in _some(pages):
            ext = page_ext(pfn_to_page(prog, pages.start + row))
            assert pages.ext.flags[row] == ext.flags.value_()
            owner = cast("struct page_owner *", page_ext_data(ext, prog["page_owner_ops"]))
            for name in record.names:
                value = getattr(owner, name)
                expected = value.string_() if name == "comm" else value.value_()
                assert record[name][row] == expected


def test_owners_and_marks_are_what_the_helpers_say(kernel: Kernel, ranges: list[PageRange]) -> None:
    prog = kernel.target.prog
    owners = read_owners(kernel)
    seen = set()
    for pages in ranges:
        for row in _some(pages):
            page = pfn_to_page(prog, pages.start + row)
            owner, allocated = page_owner(page), page_owner_allocated(page)
            assert bool(owner) == pages.ext.has_flag("PAGE_EXT_OWNER")[row]
            assert (allocated and bool(owner.handle)) == owners.recorded(pages)[row]
            assert page_pinner(page) == marked(pages.ext)[row]
            seen.add((bool(owner), allocated, page_pinner(page)))
    assert {(True, True, True), (True, False, False), (False, False, False)} <= seen


def test_flags_and_types_are_those_of_kpageflags(sample: Sample, ranges: list[PageRange]) -> None:
    words = np.frombuffer(sample.truth("kpageflags.bin"), np.uint64)
    for pages in ranges:
        kernel_words = words[pages.start : pages.end]
        # The kernel's file ends at max_pfn; the last section may be longer.
        count = len(kernel_words)
        anon = (pages.mapping & np.uint64(1)) != 0
        for bit, own in (
            (KPF_BUDDY, pages.in_free_block),
            (KPF_SLAB, pages.is_type("slab")),
            (KPF_PGTABLE, pages.is_type("table")),
            (KPF_COMPOUND_HEAD, pages.is_head),
            (KPF_COMPOUND_TAIL, pages.is_tail),
            (KPF_LRU, pages.has_flag("PG_lru")),
            (KPF_ANON, anon & ~pages.is_typed() & (pages.refcount > 0)),
        ):
            theirs = ((kernel_words >> np.uint64(bit)) & np.uint64(1)).astype(bool)
            ours = own
            if bit in (KPF_SLAB, KPF_LRU, KPF_ANON):
                # The kernel looks these up in the head; ours are a page's own.
                theirs = theirs & ~pages.is_tail[:count]
                ours = own & ~pages.is_tail
            differ = int((theirs != ours[:count]).sum())
            # Files were read a moment before the dump: programs that read them came and went.
            assert differ <= 0.02 * count, f"bit {bit}: {differ} of {count} pages differ"


def test_mapcounts_are_those_of_kpagecount(sample: Sample, ranges: list[PageRange]) -> None:
    counts = np.frombuffer(sample.truth("kpagecount.bin"), np.uint64)
    for pages in ranges:
        theirs = counts[pages.start : pages.end].astype(np.int64)
        small = ~pages.is_head & ~pages.is_tail
        rows = np.flatnonzero(small[: len(theirs)])
        ours = pages.folio_mapcount(rows)
        # Whatever runs to read the file maps its program's pages.
        assert (ours != theirs[rows]).sum() <= 0.01 * len(rows)


def test_free_blocks_are_those_of_buddyinfo(sample: Sample, ranges: list[PageRange]) -> None:
    text = sample.truth("buddyinfo.txt").decode().splitlines()
    theirs = np.array([[int(count) for count in line.split()[4:]] for line in text])
    ours = np.zeros_like(theirs)
    for pages in ranges:
        heads = pages.is_buddy
        np.add.at(ours, (pages.zone[heads], pages.buddy_order[heads]), 1)
    sizes = 1 << np.arange(theirs.shape[1])
    assert abs((ours - theirs) @ sizes).sum() <= 0.005 * (theirs @ sizes).sum()


def test_frames_are_named_as_the_kernel_names_them(kernel: Kernel, sample: Sample) -> None:
    """Every function start in /proc/kallsyms: name, and a size that ends where the next symbol starts."""
    lines = [line.split() for line in sample.truth("kallsyms.txt").decode().splitlines()]
    symbols = [(int(address, 16), name) for address, kind, name in lines if kind in "tT" and int(address, 16)]
    addresses = sorted({int(address, 16) for address, _, _ in lines})
    for address, _ in random.Random(2).sample(symbols, 300):
        following = addresses[addresses.index(address) + 1]
        first = next(name for at, _, name in lines if int(at, 16) == address)
        assert kernel.symbols.text(address) == f"{first}+0x0/{following - address:#x}"


def test_cma_area_is_the_kernels(kernel: Kernel, sample: Sample) -> None:
    from mmdump.kernel.cma import read_cma_bitmap

    [area] = kernel.cma_areas
    assert area.base_pfn == int(sample.truth("cma_base_pfn.txt"))
    assert area.count == int(sample.truth("cma_count.txt"))
    bitmap = read_cma_bitmap(kernel.target.reader, area)
    words = np.array([int(word) for word in sample.truth("cma_bitmap.txt").split()], np.uint32)
    assert (bitmap == np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)).all()
