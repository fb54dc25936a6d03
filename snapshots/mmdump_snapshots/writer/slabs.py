"""Slabs: their caches, and the tags of their objects (mm/slab.h, mm/slub.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmdump_snapshots.writer.arena import Arena, Struct
    from mmdump_snapshots.writer.pages import PageWriter
    from mmdump_snapshots.writer.state import State
    from mmdump_snapshots.writer.tagstate import SlabState

__all__ = ["write_slabs"]

#: MEMCG_DATA_OBJEXTS: this word is the address of a vector of extensions.
_OBJEXTS = 1


def write_slabs(arena: Arena, state: State, pages: PageWriter, tags: NDArray[np.uint64]) -> None:
    """Write the caches and what slabs are, in place of what their pages would have there.

    :param tags: Address of the tag that each reference of the state means.
    """
    types = arena.profile.types
    arena.words("slab_caches", [arena.address("slab_caches")] * 2)
    if not state.slabs:
        return
    caches = _caches(arena, state.slabs)
    # Slabs are a type of their own since 5.17.
    kind = "struct slab" if "struct slab" in types else "struct page"
    for slab in state.slabs:
        struct = arena.struct(kind)
        struct.set("slab_cache", caches[slab.cache, slab.size])
        struct.set("freelist", _freelist(arena, slab))
        struct.set("inuse", len(slab.used))
        struct.set("objects", slab.objects)
        members = ["slab_cache", "freelist", "counters"]
        if state.tags is not None:
            struct.set("obj_exts", _vector(arena, slab, tags) | _OBJEXTS)
            struct.maybe("stride", types.sizeof("struct slabobj_ext"))
            members.append("obj_exts")
        words = []
        for name in members:
            at = struct.offset(name)
            words.append((at, bytes(struct.data[at : at + 8])))
        pages.overlays[slab.pfn] = words


def _freelist(arena: Arena, slab: SlabState) -> int:
    """Each free object leads to the next. :return: The address of the first; 0 where none is free."""
    used, offset = set(slab.used), _free_pointer(arena, slab.size)
    following = 0
    for index in range(slab.objects - 1, -1, -1):
        if index not in used:
            at = slab.pfn * arena.profile.page_size + index * slab.size
            arena.memory.write(at + offset, following.to_bytes(8, "little"))
            following = arena.addresses.direct(at)
    return following


def _free_pointer(arena: Arena, size: int) -> int:
    """Where in a free object the address of the next stands: in its middle since 5.7."""
    return size // 2 & ~7 if arena.profile.version >= (5, 7) else 0


def _vector(arena: Arena, slab: SlabState, tags: NDArray[np.uint64]) -> int:
    """The extensions of a slab's objects, a vector of its own. :return: Its address."""
    types = arena.profile.types
    size, at = types.sizeof("struct slabobj_ext"), types.member("struct slabobj_ext", "ref").offset
    vector = np.zeros((slab.objects, size // 8), np.uint64)
    vector[list(slab.used), at // 8] = tags[list(slab.tags)]
    return arena.place(vector.tobytes(), 8)


def _caches(arena: Arena, slabs: Sequence[SlabState]) -> dict[tuple[str, int], int]:
    """``slab_caches``: the caches of these slabs. :return: Their addresses by name and size."""
    found: dict[tuple[str, int], Struct] = {}
    for slab in slabs:
        if (slab.cache, slab.size) in found:
            continue
        cache = found[slab.cache, slab.size] = arena.struct("struct kmem_cache")
        cache.set("name", arena.string(slab.cache))
        for member in ("size", "object_size", "inuse"):
            cache.set(member, slab.size)
        cache.set("offset", _free_pointer(arena, slab.size))
        cache.set("align", 8)
        cache.set("refcount", 1)
        cache.set("oo.x", slab.objects)
    links = [cache.at("list") for cache in found.values()]
    head = arena.address("slab_caches")
    for index, cache in enumerate(found.values()):
        cache.set("list.next", links[index + 1] if index + 1 < len(links) else head)
        cache.set("list.prev", links[index - 1] if index else head)
        arena.finish(cache)
    arena.words("slab_caches", [links[0], links[-1]])
    return {key: cache.address for key, cache in found.items()}
