"""Which object of a slab an address lies in, and whether that object is allocated or free (mm/slub.c)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import FaultError, Object

from mmdump.holders import Place, State
from mmdump.kernel.arrays import U64
from mmdump.kernel.layout import byteorder, c_string, find_type, has_member
from mmdump.kernel.percpu import at_each_cpu
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["Slabs"]

#: A slab larger than this is garbage; the kernel's own limit are 8 pages.
_MAX_SLAB = 1 << 20
#: Objects in sheaves of one cache that are looked at (6.18).
_MAX_SHEAVES = 1 << 14


@dataclass(frozen=True)
class _Cache:
    """What is needed of a ``struct kmem_cache``."""

    name: str
    size: int
    object_size: int
    red_left_pad: int
    offset: int
    random: int | None
    #: Heads of CPUs' own free lists, by the address of the slab they are of.
    cpu_lists: dict[int, list[int]]
    #: Free objects in sheaves.
    sheaves: frozenset[int]
    complete: bool


@dataclass(frozen=True)
class _Slab:
    """One slab: its cache, where its objects begin, and which of them are free."""

    cache: _Cache
    start: int
    objects: int
    free: frozenset[int]
    complete: bool


class Slabs:
    """Objects of slabs by their addresses in the direct map. Each slab is read once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._prog = kernel.target.prog
        self._caches: dict[int, _Cache] = {}
        self._slabs: dict[int, _Slab | None] = {}

    @cached_property
    def _type(self) -> str:
        # 5.17; before, slabs were described by struct page.
        return "struct slab *" if find_type(self._prog, "struct slab") is not None else "struct page *"

    def place(self, head_pfn: int, start: int, address: int) -> Place:
        """The object that an address lies in.

        :param head_pfn: Of the slab.
        :param start: The slab's first address in the direct map.
        """
        if head_pfn not in self._slabs:
            try:
                self._slabs[head_pfn] = self._read(head_pfn, start)
            except (FaultError, LookupError, AttributeError, ValueError, OverflowError):
                self._slabs[head_pfn] = None
        slab = self._slabs[head_pfn]
        if slab is None:
            return Place("slab", why="its cache could not be read")
        cache = slab.cache
        index = (address - slab.start) // cache.size
        at = slab.start + index * cache.size
        if not 0 <= index < slab.objects:
            return Place("slab", cache.name, state=State.STALE, why="beside the objects")
        if at in slab.free or at in cache.sheaves:
            return Place("slab", cache.name, at, cache.object_size, State.STALE, "a freed object")
        if address - at >= cache.object_size:
            # Red zones, and the records of slub_debug.
            return Place("slab", cache.name, at, cache.object_size, State.STALE, "behind the object")
        known = slab.complete and cache.complete
        why = "allocated" if known else "not known to be free"
        return Place("slab", cache.name, at, cache.object_size, State.POSSIBLE, why)

    def _read(self, head_pfn: int, start: int) -> _Slab | None:
        address = self._kernel.memmap.address(head_pfn)
        slab = Object(self._prog, self._type, address)
        pointer = slab.slab_cache.read_()
        if pointer.value_() not in self._caches:
            self._caches[pointer.value_()] = self._read_cache(pointer)
        cache = self._caches[pointer.value_()]
        # Up to 5.16 struct page has s_mem whatever the allocator; only SLAB's caches count their objects.
        if has_member(pointer.type_.type, "num"):
            return self._read_slab_allocator(slab, cache)
        objects = int(slab.objects.value_())
        if not 0 < cache.size <= _MAX_SLAB or not 0 < objects * cache.size <= _MAX_SLAB:
            return None
        start += cache.red_left_pad
        heads = [slab.freelist.value_(), *cache.cpu_lists.get(address, ())]
        free: set[int] = set()
        complete = True
        words = self._words(start, objects * cache.size)
        for head in heads:
            if words is None:
                complete = False
                break
            complete &= _follow(cache, words, start, objects, head, free)
        return _Slab(cache, start, objects, frozenset(free), complete)

    def _words(self, start: int, size: int) -> U64 | None:
        chunk = self._kernel.target.reader.read(start, size & ~7)
        if not chunk.complete and chunk.status.max() >= ReadStatus.UNREADABLE:
            return None
        words: U64 = chunk.data.view(byteorder(self._prog) + "u8")
        return words

    def _read_slab_allocator(self, slab: Object, cache: _Cache) -> _Slab | None:
        """The allocator SLAB, up to 6.7: an array of the indices of free objects."""
        start, objects = slab.s_mem.value_(), slab.slab_cache.num.value_()
        if not 0 < cache.size <= _MAX_SLAB or not 0 < objects * cache.size <= _MAX_SLAB * 4:
            return None
        # Per-CPU arrays hold free objects too: which is not looked at, so that nobody knows who is in use.
        return _Slab(cache, start, int(objects), frozenset(), complete=False)

    def _read_cache(self, cache: Object) -> _Cache:
        struct = cache.type_.type

        def number(name: str, default: int = 0) -> int:
            return int(cache.member_(name).value_()) if has_member(struct, name) else default

        complete = True
        lists: dict[int, list[int]] = {}
        sheaves: set[int] = set()
        try:
            for slab, head in self._cpu_lists(cache):
                lists.setdefault(slab, []).append(head)
        except (FaultError, LookupError, AttributeError):
            complete = False
        try:
            for free in self._in_sheaves(cache):
                sheaves.add(free)
        except (FaultError, LookupError, AttributeError, ValueError):
            complete = False
        return _Cache(
            name=c_string(cache.name),
            size=number("size"),
            object_size=number("object_size"),
            red_left_pad=number("red_left_pad"),
            offset=number("offset"),
            # CONFIG_SLAB_FREELIST_HARDENED.
            random=number("random") if has_member(struct, "random") else None,
            cpu_lists=lists,
            sheaves=frozenset(sheaves),
            complete=complete,
        )

    def _cpu_lists(self, cache: Object) -> Iterator[tuple[int, int]]:
        """Each CPU's slab, and the head of the CPU's own list of its free objects (up to 6.19)."""
        if not has_member(cache.type_.type, "cpu_slab") or not cache.cpu_slab:
            return
        for _cpu, there in at_each_cpu(self._prog, cache.cpu_slab):
            own = there.read_()
            # page up to 5.16.
            slab = own.member_("slab" if has_member(own.type_, "slab") else "page").value_()
            if slab and own.freelist:
                yield slab, own.freelist.value_()

    def _in_sheaves(self, cache: Object) -> Iterator[int]:
        """Free objects in sheaves: the CPUs' own, and the full ones of each node's barn (6.18)."""
        struct = cache.type_.type
        if not has_member(struct, "cpu_sheaves"):
            return
        if cache.cpu_sheaves:
            for _cpu, own in at_each_cpu(self._prog, cache.cpu_sheaves):
                for name in ("main", "spare", "rcu_free"):
                    # What waits in rcu_free is freed already.
                    yield from _objects(own.member_(name).read_())
        for barn in self._barns(cache):
            head = barn.sheaves_full.address_of_().value_()
            link = barn.sheaves_full.next.read_()
            for _ in range(_MAX_SHEAVES):
                if link.value_() in (0, head):
                    break
                from drgn import container_of

                sheaf = container_of(link, "struct slab_sheaf", "barn_list")
                yield from _objects(sheaf)
                link = sheaf.barn_list.next.read_()

    def _barns(self, cache: Object) -> Iterator[Object]:
        nodes = min(int(self._prog["nr_node_ids"].value_()) if _has(self._prog, "nr_node_ids") else 1, 1024)
        # 7.1 keeps node and barn side by side; before, the node leads to the barn.
        side = has_member(cache.type_.type, "per_node")
        for index in range(nodes):
            if side:
                barn = cache.per_node[index].barn.read_()
            else:
                node = cache.node[index].read_()
                barn = node.barn.read_() if node and has_member(node.type_.type, "barn") else None
            if barn:
                yield barn


def _has(prog: object, name: str) -> bool:
    try:
        prog[name]  # type: ignore[index]
    except LookupError:
        return False
    return True


def _objects(sheaf: Object) -> Iterator[int]:
    if not sheaf:
        return
    for index in range(min(int(sheaf.size.value_()), 1 << 10)):
        yield sheaf.objects[index].value_()


def _follow(cache: _Cache, words: U64, start: int, objects: int, head: int, free: set[int]) -> bool:
    """Add the objects of a free list to ``free``; whether the list has the end that it should have."""
    if not head:
        return True
    found: set[int] = set()
    for decode in _DECODERS if cache.random is not None else (_plain,):
        found = set()
        at = head
        while at:
            index, rest = divmod(at - start, cache.size)
            if rest or not 0 <= index < objects or at in found:
                break
            found.add(at)
            where = at + cache.offset - start
            if where % 8 or where // 8 >= len(words):
                break
            at = decode(int(words[where // 8]), at + cache.offset, cache.random or 0)
        else:
            free |= found
            return True
    # What could be followed is free, whatever comes behind.
    free |= found
    return False


def _plain(word: int, _where: int, _random: int) -> int:
    return word


def _hardened(word: int, where: int, random: int) -> int:
    """``freelist_ptr_decode()`` since 5.7."""
    return word ^ random ^ int.from_bytes(where.to_bytes(8, "little"), "big")


def _hardened_before(word: int, where: int, random: int) -> int:
    """The same before: nothing in the debug info tells them apart, but only one leads anywhere."""
    return word ^ random ^ where


_DECODERS = (_hardened, _hardened_before)
