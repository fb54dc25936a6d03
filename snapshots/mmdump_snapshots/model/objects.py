"""Small objects: slabs of them in pages from the buddy allocator (mm/slub.c, in the small)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .gfp import Gfp
from .pages import PageType

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Cache", "Objects"]

#: ``slub_max_order``, and how many objects a slab should have at least.
_MAX_ORDER = 3
_MIN_OBJECTS = 16


@dataclass
class Cache:
    """``struct kmem_cache``.

    :ivar size: Bytes from one object to the next.
    :ivar order: Of its slabs.
    :ivar free: Addresses of free objects of each slab that has some, by the slab's first PFN.
    """

    name: str
    size: int
    order: int
    free: dict[int, list[int]] = field(default_factory=dict)


class Objects:
    """All objects of a machine.

    :ivar caches: By kind and size.
    :ivar live: Physical address of every object in use -> its cache.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.caches: dict[tuple[str, int], Cache] = {}
        self.live: dict[int, Cache] = {}

    def alloc(self, kind: str, size: int, gfp: Gfp = Gfp.KERNEL) -> int:
        """``kmem_cache_alloc()``.

        :param kind: The cache.
        :param size: Bytes.
        :return: Physical address, a multiple of 8.
        :raises MemoryError: There is no memory for another slab.
        """
        cache = self._cache(kind, size)
        if not cache.free:
            self._new_slab(cache, gfp)
        slab, addresses = next(iter(cache.free.items()))
        address = addresses.pop()
        if not addresses:
            del cache.free[slab]
        self.live[address] = cache
        if self._machine.alloc_tags is not None:
            self._machine.alloc_tags.add_object(address, cache.size)
        return address

    def free(self, address: int) -> None:
        """``kmem_cache_free()``. A slab without objects in use is given back.

        :raises KeyError: No object is in use there.
        """
        cache = self.live.pop(address)
        if self._machine.alloc_tags is not None:
            self._machine.alloc_tags.sub_object(address, cache.size)
        shift = self._machine.era.page_shift
        slab = self._machine.pages.head(address >> shift)
        addresses = cache.free.setdefault(slab, [])
        addresses.append(address)
        if len(addresses) == self._capacity(cache):
            del cache.free[slab]
            with self._machine.calls("__free_slab", "discard_slab", "__slab_free", "kmem_cache_free"):
                self._machine.pages.type[slab] = PageType.NONE
                self._machine.free_pages(slab, cache.order)

    def _cache(self, kind: str, size: int) -> Cache:
        if (kind, size) not in self.caches:
            stride = -(-size // 8) * 8
            page = self._machine.era.page_size
            if not 0 < stride <= page << _MAX_ORDER:
                raise ValueError(f"no slab holds {size} bytes")
            order = next(
                (order for order in range(_MAX_ORDER) if (page << order) // stride >= _MIN_OBJECTS),
                _MAX_ORDER,
            )
            self.caches[kind, size] = Cache(kind, stride, order)
        return self.caches[kind, size]

    def slabs(self) -> dict[int, Cache]:
        """All slabs, by the first PFN of each."""
        shift, head = self._machine.era.page_shift, self._machine.pages.head
        found = {slab: cache for cache in self.caches.values() for slab in cache.free}
        for address, cache in self.live.items():
            found.setdefault(head(address >> shift), cache)
        return found

    def capacity(self, cache: Cache) -> int:
        """How many objects a slab has room for."""
        return self._capacity(cache)

    def _capacity(self, cache: Cache) -> int:
        return (self._machine.era.page_size << cache.order) // cache.size

    def _new_slab(self, cache: Cache, gfp: Gfp) -> None:
        """``allocate_slab()``, always of the preferred order."""
        machine = self._machine
        gfp |= Gfp.COMP if cache.order else Gfp(0)
        outer = "kmem_cache_alloc" if machine.era.version < (6, 10) else "kmem_cache_alloc_noprof"
        with machine.calls("new_slab", "___slab_alloc", outer):
            slab = machine.alloc_pages(cache.order, gfp)
        if slab is None:
            raise MemoryError(f"no memory for a slab of {cache.name}")
        machine.pages.type[slab] = PageType.SLAB
        base = slab << machine.era.page_shift
        # From the first object on.
        cache.free[slab] = [base + i * cache.size for i in range(self._capacity(cache) - 1, -1, -1)]
