"""Memory cgroups of pages (kernel: include/linux/memcontrol.h, mm/memcontrol.c).

A page is charged to a memory cgroup, directly or through a ``struct obj_cgroup``. What its word means changed
with 5.9, 5.11, 6.10 and 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Object, TypeKind, offsetof

from mmdump.kernel.arrays import I64, U64
from mmdump.kernel.layout import c_string, enumerators, find_object, find_type, has_member

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel.page import PageRange

__all__ = ["Charge", "MemoryCgroups", "read_memory_cgroups"]

#: No hierarchy is deeper; a longer way up is a cycle.
_MAX_DEPTH = 256
#: struct cgroup_subsys_state.flags, where the enumerator is not in the debug info.
_CSS_ONLINE = 1 << 1


@dataclass(frozen=True)
class Charge:
    """What a page's word says.

    :param memcg: Address of the ``struct mem_cgroup``; 0 where the page is charged to none.
    :param objcg: Whether it was found through a ``struct obj_cgroup``.
    :param slab: Whether the word leads to the slab objects' own cgroups instead.
    :param online: Whether the cgroup still exists for user space.
    :param path: Its path below the cgroup root; None where that could not be read.
    :param ino: What /proc/kpagecgroup says: the inode number of the closest one that is online.
    """

    memcg: int = 0
    objcg: bool = False
    slab: bool = False
    online: bool = True
    path: str | None = None
    ino: int = 0


_NONE = Charge()


class MemoryCgroups:
    """Decodes the words of pages; each distinct one is looked up once.

    :param by_folio: Whether ``page_cgroup_ino()`` looks at the page's folio, not at the page itself (6.6).
    """

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        bits = enumerators(prog, "enum page_memcg_data_flags")
        #: MEMCG_DATA_OBJEXTS since 6.10, MEMCG_DATA_OBJCGS from 5.11 on; before, bit 0 without a name (5.9).
        self._slab = bits.get("MEMCG_DATA_OBJEXTS", bits.get("MEMCG_DATA_OBJCGS", 1))
        self._kmem = bits.get("MEMCG_DATA_KMEM", 2) if bits else 0
        # Below the pointer are flags: two up to 6.9, three since (OBJEXTS_FLAGS_MASK).
        self._mask = ~(7 if "MEMCG_DATA_OBJEXTS" in bits else 3) & ((1 << 64) - 1)
        # 7.1: every charge goes through an obj_cgroup, and mem_cgroup has one for each node.
        self._always_objcg = has_member(find_type(prog, "struct obj_cgroup"), "is_root")
        self.by_folio = _asks_the_folio(prog)
        online = find_object(prog, "CSS_ONLINE")
        self._online = int(online.value_()) if online is not None else _CSS_ONLINE
        self._charges: dict[int, Charge] = {}

    def charge(self, word: int) -> Charge:
        """What a value of ``page->memcg_data`` (up to 5.10: ``mem_cgroup``) says; never raises."""
        found = self._charges.get(word)
        if found is None:
            try:
                found = self._decode(word)
            except (FaultError, LookupError, AttributeError, TypeError, ValueError):
                found = _NONE
            self._charges[word] = found
        return found

    def words(self, pages: PageRange) -> U64:
        """The words of a range of pages, each page's own."""
        return pages.memcg_data if "memcg_data" in (pages.layout.dtype.names or ()) else pages.mem_cgroup

    def words_at(self, pages: PageRange, rows: I64) -> U64:
        """The same of some rows."""
        new = "memcg_data" in (pages.layout.dtype.names or ())
        return pages.word_at("memcg_data" if new else "mem_cgroup", rows)

    def inodes(self, words: U64) -> U64:
        """``page_cgroup_ino()`` for an array of words: uint64 of the same shape."""
        distinct, inverse = np.unique(words, return_inverse=True)
        inodes = np.array([self.charge(int(word)).ino for word in distinct], np.uint64)
        return inodes[inverse.reshape(-1)]

    def _decode(self, word: int) -> Charge:
        if not word:
            return _NONE
        if word & self._slab:
            return Charge(slab=True)
        pointer = word & self._mask
        objcg = bool(word & self._kmem)
        if objcg or self._always_objcg:
            # 5.11 alone had the memory cgroup itself here.
            memcg = Object(self._prog, "struct obj_cgroup *", pointer).memcg.read_()
        else:
            memcg = Object(self._prog, "struct mem_cgroup *", pointer)
        if not memcg:
            return Charge(objcg=objcg)
        return Charge(
            memcg.value_(),
            objcg,
            online=bool(memcg.css.flags.value_() & self._online),
            path=self._path(memcg),
            ino=self._ino(memcg),
        )

    def _ino(self, memcg: Object) -> int:
        """``cgroup_ino()`` of the closest cgroup that is online, upwards."""
        offset = offsetof(memcg.type_.type, "css")
        for _ in range(_MAX_DEPTH):
            if memcg.css.flags.value_() & self._online:
                node = memcg.css.cgroup.kn
                identity = node.member_("id" if has_member(node.type_.type, "id") else "ino")
                # 5.5 made the number 64 bits wide; from 4.14 on it was half of a union.
                if identity.type_.unaliased().kind in (TypeKind.UNION, TypeKind.STRUCT):
                    identity = identity.ino
                return int(identity.value_()) & ((1 << 64) - 1)
            parent = memcg.css.parent.value_()
            if not parent:
                return 0
            memcg = Object(self._prog, memcg.type_, parent - offset)
        return 0

    def _path(self, memcg: Object) -> str | None:
        try:
            node = memcg.css.cgroup.kn.read_()
            # The parent's member was renamed in 6.15.
            parent = "__parent" if has_member(node.type_.type, "__parent") else "parent"
            names: list[str] = []
            for _ in range(_MAX_DEPTH):
                above = node.member_(parent).read_()
                if not above:
                    return "/" + "/".join(reversed(names))
                names.append(c_string(node.name, 255))
                node = above
        except (FaultError, LookupError, AttributeError):
            pass
        return None


def _asks_the_folio(prog: Program) -> bool:
    """Whether page_cgroup_ino() converts to the folio: it does where the function it calls takes one."""
    page = find_type(prog, "struct page")
    for name in ("page_memcg_check", "folio_memcg_check"):
        try:
            prog.function(name)
        except LookupError:
            continue
        return name == "folio_memcg_check"
    # Between the two, 6.6 also gave the folio's order its place in the flags of the second page.
    return not has_member(page, "compound_order") and not has_member(
        find_type(prog, "struct folio"), "_folio_order"
    )


def read_memory_cgroups(prog: Program) -> MemoryCgroups | None:
    """The memory cgroups of this kernel; None where it was built without CONFIG_MEMCG."""
    page = find_type(prog, "struct page")
    if not has_member(page, "memcg_data") and not has_member(page, "mem_cgroup"):
        return None
    if find_type(prog, "struct mem_cgroup") is None:
        return None
    return MemoryCgroups(prog)
