"""What single pages are used for, for ``mmdump page``: slab, page cache, anonymous memory, memory cgroup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object

from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import c_string, find_type, has_member
from mmdump.kernel.page import MAPPING_ANON, MAPPING_KSM
from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump.result import Kind
from mmdump.target.faults import fault_words
from mmdump_pages.rmap import mapped_at, path_in_filesystem

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["use_notes"]

_RANK = 35


def use_notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
    """What each page is used for, as far as that can be followed."""
    found: dict[int, Sequence[Section]] = {}
    for pages, rows in asked.ranges():
        for row in rows.tolist():
            if pages.readable[row] and not pages.in_free_block[row]:
                sections = _sections(kernel, asked, pages, row)
                found[pages.start + row] = [each for each in sections if each.facts]
    return found


def _sections(kernel: Kernel, asked: AskedPages, pages: PageRange, row: int) -> list[Section]:
    pfn = pages.start + row
    head_pfn = int(pages.head_pfn[row])
    if head_pfn < pages.start:
        # The head of a gigantic folio lies in another range.
        pages = kernel.pages(head_pfn, min(head_pfn + 2, kernel.memmap.end_pfn))
    head = head_pfn - pages.start
    sections = [_memcg(kernel, pages, head)]
    if not pages.readable[head]:
        return sections
    if pages.is_type("slab", at=np.array([head]))[0]:
        return [*sections, _guarded("slab", lambda: _slab(kernel, asked, head_pfn, pfn))]
    if pages.is_typed(at=np.array([head]))[0] and not pages.is_type("hugetlb", at=np.array([head]))[0]:
        return sections
    mapping, index = int(pages.mapping[head]), int(pages.index[head])
    tag = mapping & 3
    if tag == MAPPING_KSM:
        facts = [Fact("stable node", mapping & ~3, Kind.ADDRESS)]
        return [*sections, Section("ksm", facts, _RANK)]
    if tag & MAPPING_ANON:
        where = index + pfn - head_pfn
        return [*sections, _guarded("anon", lambda: _anon(kernel, mapping & ~3, where, pfn))]
    on_lru = bool(pages.has_flag("PG_lru", at=np.array([head]))[0])
    if mapping and not tag and (on_lru or pages.refcount[head] > 0):
        hugetlb = bool(pages.is_type("hugetlb", at=np.array([head]))[0])
        where = index if hugetlb else index + pfn - head_pfn
        sections.append(_guarded("page cache", lambda: _file(kernel, mapping, where, pfn, hugetlb)))
    return sections


def _guarded(title: str, find: Callable[[], list[Fact]]) -> Section:
    """A section whose structures may be missing from the dump, garbage, or of another form."""
    try:
        return Section(title, find(), _RANK)
    except FaultError as error:
        return Section(title, [Fact("unknown", f"it could not be read: {fault_words(error)}")], _RANK)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        return Section(title, [Fact("unknown", f"this kernel keeps it otherwise: {error}")], _RANK)


def _memcg(kernel: Kernel, pages: PageRange, head: int) -> Section:
    cgroups = kernel.memory_cgroups
    word = int(cgroups.words(pages)[head]) if cgroups is not None else 0
    if cgroups is None or not word or pages.is_type("slab", at=np.array([head]))[0]:
        # The word of a slab page leads to those of its objects.
        return Section("memcg", [], _RANK)
    charge = cgroups.charge(word)
    if not charge.memcg:
        words = "its objects' own" if charge.slab else f"none: {word:#x} leads to no cgroup"
        return Section("memcg", [Fact("charged to", words)], _RANK)
    facts = [
        Fact("charged to", charge.path),
        Fact("struct mem_cgroup", charge.memcg, Kind.ADDRESS),
        Fact("inode", charge.ino, Kind.ID),
    ]
    if charge.objcg:
        facts.append(Fact("through", "an obj_cgroup"))
    if not charge.online:
        facts.append(Fact("state", "offline: removed, and kept by what is charged to it"))
    return Section("memcg", facts, _RANK)


def _slab(kernel: Kernel, asked: AskedPages, head_pfn: int, pfn: int) -> list[Fact]:
    """``struct slab`` (5.17; part of struct page before), and its cache."""
    prog = kernel.target.prog
    kind = "struct slab" if find_type(prog, "struct slab") is not None else "struct page"
    slab = Object(prog, kind, address=kernel.memmap.address(head_pfn))
    cache = slab.slab_cache.read_()
    facts = [
        Fact("cache", c_string(cache.name) if cache else "none"),
        Fact("struct kmem_cache", cache.value_(), Kind.ADDRESS),
        Fact("object size", int(cache.object_size.value_()), Kind.BYTES),
    ]
    size = int(cache.member_("size").value_())
    facts.append(Fact("size with what surrounds it", size, Kind.BYTES))
    if has_member(slab.type_, "inuse"):
        facts.append(Fact("objects", f"{int(slab.inuse.value_())} of {int(slab.objects.value_())} in use"))
    facts += [
        Fact("object", _object(address, kernel, head_pfn, pfn, size))
        for address in asked.addresses.get(pfn, ())
        if 0 < size <= 1 << 24
    ]
    return facts


def _object(address: int, kernel: Kernel, head_pfn: int, pfn: int, size: int) -> str:
    """Which object an address of the page lies in: they stand side by side from the slab's start (SLUB)."""
    shift = kernel.target.page_shift
    offset = ((pfn - head_pfn) << shift) + (address & ((1 << shift) - 1))
    number, inside = divmod(offset, size)
    return f"number {number}, at {address - inside:#x}; the address is {inside:#x} bytes into it"


def _file(kernel: Kernel, mapping: int, index: int, pfn: int, hugetlb: bool) -> list[Fact]:
    """``folio->mapping->host``, and its place in the file."""
    prog = kernel.target.prog
    space = Object(prog, "struct address_space *", mapping)
    facts = [Fact("address_space", mapping, Kind.ADDRESS), Fact("index", index, Kind.BITS)]
    if not hugetlb:
        facts.append(Fact("offset", index << kernel.target.page_shift, Kind.BITS))
    inode = space.host.read_()
    if not inode:
        return [*facts, Fact("host", "none: not a file, such as the swap cache")]
    block = inode.i_sb
    facts += [
        Fact("inode", int(inode.i_ino.value_()), Kind.ID),
        Fact("file size", max(int(inode.i_size.value_()), 0), Kind.BYTES),
        Fact("filesystem", f"{c_string(block.s_type.name)} on {printable(block.s_id.string_()[:32])}"),
        Fact("path in it", path_in_filesystem(inode) or "none known"),
    ]
    return [*facts, *mapped_at(kernel, space.i_mmap, index, pfn, anon=False)]


def _anon(kernel: Kernel, anon_vma: int, index: int, pfn: int) -> list[Fact]:
    """``folio->mapping`` without its tag is an anon_vma: the areas that may map the page hang there."""
    root = Object(kernel.target.prog, "struct anon_vma *", anon_vma)
    facts = [Fact("anon_vma", anon_vma, Kind.ADDRESS), Fact("index", index, Kind.BITS)]
    return [*facts, *mapped_at(kernel, root.rb_root, index, pfn, anon=True)]
