"""VMCOREINFO: what a kernel tells the readers of its dumps (``crash_save_vmcoreinfo_init()``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmdump_snapshots.writer.addresses import KERNEL_IMAGE_SIZE, AddressSpace
from mmdump_snapshots.writer.facts import TypeFacts, constant, mapcount_value, offset_of, size_of

__all__ = ["Facts", "vmcoreinfo"]

SECTION_SIZE_BITS = 27
#: Lines of the printk buffer (5.10): struct, whether its size is told, members.
PRINTK = (
    ("printk_ringbuffer", ("desc_ring", "text_data_ring", "fail")),
    ("prb_desc_ring", ("count_bits", "descs", "infos", "head_id", "tail_id")),
    ("prb_desc", ("state_var", "text_blk_lpos")),
    ("prb_data_blk_lpos", ("begin", "next")),
    ("printk_info", ("seq", "ts_nsec", "text_len", "caller_id", "dev_info")),
    ("dev_printk_info", ("subsystem", "device")),
    ("prb_data_ring", ("size_bits", "data", "head_lpos", "tail_lpos")),
)
#: sizeof of arrays in struct dev_printk_info, told as lengths.
PRINTK_LENGTHS = {"subsystem": 16, "device": 48}
#: On x86-64, swapper_pg_dir is a macro for init_top_pgt.
ALIASES = {"swapper_pg_dir": "init_top_pgt", "init_top_pgt": "swapper_pg_dir"}
KALLSYMS = ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base")


@dataclass(frozen=True)
class Facts:
    """What VMCOREINFO is made of. Lines about types or symbols that are not there are left out.

    :param release: ``uname -r``.
    :param version: Release, such as ``(6, 12)``: which lines there are.
    :param types: The profile's types.
    :param space: Where things are mapped.
    :param symbol: The address of a symbol at run time, or ``None``.
    :param mem_section: What the pointer ``mem_section`` holds (SPARSEMEM_EXTREME).
    :param build_id: Hexadecimal.
    :param numa: CONFIG_NUMA. Without it ``mem_map`` and ``contig_page_data`` are told.
    :param max_nodes: MAX_NUMNODES.
    :param crash_time: CRASHTIME, seconds since 1970, if the kernel crashed.
    """

    release: str
    version: tuple[int, int]
    types: TypeFacts
    space: AddressSpace
    symbol: Callable[[str], int | None]
    mem_section: int
    build_id: str | None = None
    numa: bool = True
    max_nodes: int = 64
    crash_time: int | None = None


def vmcoreinfo(facts: Facts) -> bytes:
    """The text of the note: lines that each end in a newline."""
    return "".join(f"{line}\n" for line in _lines(facts)).encode()


def _lines(facts: Facts) -> Iterator[str]:
    version = facts.version
    yield f"OSRELEASE={facts.release}"
    if facts.build_id and version >= (5, 9):
        yield f"BUILD-ID={facts.build_id}"
    yield f"PAGESIZE={facts.space.page_size}"
    yield from _symbols(facts, "init_uts_ns")
    if version >= (5, 11):
        yield from _offsets(facts, "uts_namespace", "name")
    yield from _symbols(facts, "node_online_map", "swapper_pg_dir", "_stext")
    if version < (6, 9):
        yield from _symbols(facts, "vmap_area_list")
    else:
        yield f"NUMBER(VMALLOC_START)={facts.space.vmalloc:#x}"
    if not facts.numa:
        yield from _symbols(facts, "mem_map", "contig_page_data")
    yield from _sparse(facts)
    yield from _structs(facts)
    if version >= (5, 10):
        yield from _printk(facts)
    yield from _page(facts)
    if version >= (6, 0):
        yield from _symbols(facts, *(f"kallsyms_{name}" for name in KALLSYMS))
    yield from _x86_64(facts) if facts.space.arch == "x86_64" else _aarch64(facts)
    if facts.crash_time is not None:
        yield f"CRASHTIME={facts.crash_time}"


def _symbols(facts: Facts, *names: str) -> Iterator[str]:
    for name in names:
        if (address := _address(facts, name)) is not None:
            yield f"SYMBOL({name})={address:x}"


def _address(facts: Facts, name: str) -> int | None:
    """The address of a symbol, or of what a macro of that name stands for."""
    address = facts.symbol(name)
    if address is None and name in ALIASES:
        address = facts.symbol(ALIASES[name])
    if address is None and name == "node_online_map":
        # node_states[N_ONLINE]; N_ONLINE is 1.
        states = facts.symbol("node_states")
        address = None if states is None else states + (size_of(facts.types, "nodemask_t") or 8)
    return address


def _offsets(facts: Facts, struct: str, *members: str) -> Iterator[str]:
    for member in members:
        if (offset := offset_of(facts.types, f"struct {struct}", member)) is not None:
            yield f"OFFSET({struct}.{member})={offset}"


def _size(facts: Facts, name: str, type_name: str | None = None) -> Iterator[str]:
    if (size := size_of(facts.types, type_name or f"struct {name}")) is not None:
        yield f"SIZE({name})={size}"


def _numbers(facts: Facts, *names: str) -> Iterator[str]:
    for name in names:
        if (number := constant(facts.types, name)) is not None:
            yield f"NUMBER({name})={number}"


def _sparse(facts: Facts) -> Iterator[str]:
    size = facts.types.sizeof("struct mem_section")
    space = facts.space
    if facts.version >= (6, 10):
        yield f"SYMBOL(vmemmap)={space.vmemmap:x}"
    roots = (1 << (space.max_physmem_bits - SECTION_SIZE_BITS)) // (space.page_size // size)
    yield f"SYMBOL(mem_section)={facts.mem_section:x}"
    yield f"LENGTH(mem_section)={roots}"
    yield from _size(facts, "mem_section")
    yield from _offsets(facts, "mem_section", "section_mem_map")
    if facts.version >= (5, 14):
        yield f"NUMBER(SECTION_SIZE_BITS)={SECTION_SIZE_BITS}"
    if facts.version >= (5, 9):
        yield f"NUMBER(MAX_PHYSMEM_BITS)={space.max_physmem_bits}"


def _structs(facts: Facts) -> Iterator[str]:
    version = facts.version
    for name in ("page", "pglist_data", "zone", "free_area", "list_head"):
        yield from _size(facts, name)
    yield from _size(facts, "nodemask_t", "nodemask_t")
    yield from _offsets(facts, "page", "flags", "_refcount", "mapping", "lru", "_mapcount", "private")
    if version < (6, 3):
        yield from _offsets(facts, "page", "compound_dtor", "compound_order")
    elif version < (6, 6):
        yield from _offsets(facts, "folio", "_folio_dtor", "_folio_order")
    yield from _offsets(facts, "page", "compound_head" if version < (7, 1) else "compound_info")
    yield from _offsets(facts, "pglist_data", "node_zones", "nr_zones", "node_start_pfn")
    yield from _offsets(facts, "pglist_data", "node_spanned_pages", "node_id")
    yield from _offsets(facts, "zone", "free_area", "vm_stat", "spanned_pages")
    yield from _offsets(facts, "free_area", "free_list")
    yield from _offsets(facts, "list_head", "next", "prev")
    if version < (6, 9):
        yield from _offsets(facts, "vmap_area", "va_start", "list")
    yield from _length(facts, "zone", "free_area", "struct free_area")


def _length(facts: Facts, struct: str, member: str, element: str) -> Iterator[str]:
    """The elements of an array member, by the sizes of its type and of its elements."""
    size = size_of(facts.types, element)
    if size and offset_of(facts.types, f"struct {struct}", member) is not None:
        whole = int(facts.types.member(f"struct {struct}", member).type.size)
        yield f"LENGTH({struct}.{member})={whole // size}"


def _printk(facts: Facts) -> Iterator[str]:
    yield from _symbols(facts, "prb", "printk_rb_static", "clear_seq")
    for struct, members in PRINTK:
        if size_of(facts.types, f"struct {struct}") is None:
            continue
        yield from _size(facts, struct)
        for member in members:
            yield from _offsets(facts, struct, member)
            if struct == "dev_printk_info":
                yield f"LENGTH(printk_info_{member})={PRINTK_LENGTHS[member]}"
    yield from _size(facts, "atomic_long_t", "atomic_long_t")
    if facts.types.has("atomic_long_t", "counter"):
        yield "OFFSET(atomic_long_t.counter)=0"
    if facts.version >= (5, 12):
        yield from _size(facts, "latched_seq")
        yield from _offsets(facts, "latched_seq", "val")


def _page(facts: Facts) -> Iterator[str]:
    """What tells kinds of pages apart: flags and page types."""
    types, version = facts.types, facts.version
    yield from _length(facts, "free_area", "free_list", "struct list_head")
    yield from _numbers(facts, "NR_FREE_PAGES", "PG_lru", "PG_private", "PG_swapcache", "PG_swapbacked")
    slab = mapcount_value(types, version, "slab")
    if slab is None:
        yield from _numbers(facts, "PG_slab")
    else:
        yield f"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)={slab}"
    yield from _numbers(facts, "PG_hwpoison")
    if (head := constant(types, "PG_head")) is not None:
        yield f"NUMBER(PG_head_mask)={1 << head}"
    yield f"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)={mapcount_value(types, version, 'buddy')}"
    hugetlb = mapcount_value(types, version, "hugetlb")
    if hugetlb is not None:
        yield f"NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)={hugetlb}"
    elif version < (6, 6):
        yield "NUMBER(HUGETLB_PAGE_DTOR)=2"
    else:
        yield from _numbers(facts, "PG_hugetlb")
    if (offline := mapcount_value(types, version, "offline")) is not None:
        yield f"NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)={offline}"


def _x86_64(facts: Facts) -> Iterator[str]:
    """``arch_crash_save_vmcoreinfo()``."""
    space = facts.space
    yield f"NUMBER(phys_base)={space.phys_base}"
    yield from _symbols(facts, "init_top_pgt")
    yield f"NUMBER(pgtable_l5_enabled)={int(space.levels == 5)}"
    if facts.numa:
        yield from _symbols(facts, "node_data")
        yield f"LENGTH(node_data)={facts.max_nodes}"
    yield f"KERNELOFFSET={space.kernel_offset:x}"
    yield f"NUMBER(KERNEL_IMAGE_SIZE)={KERNEL_IMAGE_SIZE}"
    if facts.version >= (5, 1):
        yield "NUMBER(sme_mask)=0"


def _aarch64(facts: Facts) -> Iterator[str]:
    """``arch_crash_save_vmcoreinfo()``, with 48 bits of addresses and no pointer authentication."""
    space = facts.space
    size = facts.types.sizeof("struct page")
    start = space.vmemmap_start
    yield f"NUMBER(VA_BITS)={space.va_bits}"
    yield "NUMBER(MODULES_VADDR)=0xffff800000000000"
    yield "NUMBER(MODULES_END)=0xffff800080000000"
    if facts.version < (6, 9):
        yield f"NUMBER(VMALLOC_START)={space.vmalloc:#x}"
    yield f"NUMBER(VMALLOC_END)={start - (8 << 20):#x}"
    yield f"NUMBER(VMEMMAP_START)={start:#x}"
    yield f"NUMBER(VMEMMAP_END)={start + ((1 << (space.va_bits - 1)) >> space.page_shift) * size:#x}"
    yield f"NUMBER(kimage_voffset)={space.kimage_voffset:#x}"
    yield f"NUMBER(PHYS_OFFSET)={space.memstart:#x}"
    yield f"NUMBER(TCR_EL1_T1SZ)={64 - space.va_bits:#x}"
    yield f"KERNELOFFSET={space.kernel_offset:x}"
    yield "NUMBER(KERNELPACMASK)=0x0"
