"""The stack depot: every call chain once, named by a handle of 32 bits (lib/stackdepot.c).

Its memory is never given back: pools of four pages, filled with records one after the other. A handle is the
place of a record, the index of its pool and its offset there. Pools are allocated when a chain is saved that
is new, one ahead of need, with the caller's gfp mask: the depot allocates on behalf of page_owner, which is
called for that allocation again. What breaks that circle is page_owner's business.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .gfp import Gfp

if TYPE_CHECKING:
    from .era import Era
    from .machine import Machine

__all__ = [
    "DEPOT_POOL_ORDER",
    "REFCOUNT_SATURATED",
    "STACK_ALIGN",
    "Record",
    "StackDepot",
    "default_max_pools",
    "gfp_nested_mask",
]

#: Pools are of four pages, in every kernel.
DEPOT_POOL_ORDER = 2
#: Records begin at multiples of 16 bytes, ``DEPOT_STACK_ALIGN`` (it names the shift).
STACK_ALIGN = 4
#: What ``count`` has of a record that nobody counts (6.8 and newer): INT_MIN / 2 as an unsigned int.
REFCOUNT_SATURATED = 0xC0000000
#: ``CONFIG_STACKDEPOT_MAX_FRAMES``.
_MAX_FRAMES = 64
#: ``DEPOT_POOLS_CAP``.
_POOLS_CAP = 8192
#: Since 6.0 a bucket for each 16 KiB of memory, within limits; a table of 2^20 before.
_STACK_HASH_TABLE_SCALE = 14
_BUCKET_ORDERS = (12, 20)
_STACK_HASH_SEED = 0x9747B28C


@dataclass
class Record:
    """``struct stack_record``.

    :ivar handle: What it is known by, extra bits 0.
    :ivar hash: Of its frames. Not jhash2(): that needs addresses, and no kernel is asked for it twice.
    :ivar frames: Functions, innermost first (``entries``).
    :ivar pool: Index of its pool.
    :ivar offset: Bytes from the pool's start, a multiple of 16.
    :ivar count: ``count`` (6.8 and newer). page_owner keeps 1 more than the base pages that have this stack.
    """

    handle: int
    hash: int
    frames: tuple[str, ...]
    pool: int
    offset: int
    count: int = REFCOUNT_SATURATED

    @property
    def size(self) -> int:
        """``size``: how many frames."""
        return len(self.frames)


class StackDepot:
    """The depot of a machine.

    :ivar pools: First PFN of each pool in use or, up to 6.7, ready to be used next (``stack_pools``).
    :ivar spare: PFN of a pool allocated ahead that no index leads to yet (``new_pool``, 6.8 and newer).
    :ivar pool_index: Index of the pool that is being filled; -1 for none.
    :ivar pool_offset: Bytes of it that are used.
    :ivar records: In order of creation.
    :ivar by_handle: Handle -> record.
    :ivar table: Hash table: bucket -> its chain, the newest first. Buckets without records are missing.
    :ivar refused: How many times a new stack had to be turned away.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._era = machine.era
        self.pools: list[int] = []
        self.spare: int | None = None
        # Up to 6.7 depot_index and depot_offset begin at 0, before there is a pool.
        self.pool_index = -1 if self._keeps_spare else 0
        self.pool_offset = self.pool_size if self._keeps_spare else 0
        self.records: list[Record] = []
        self.by_handle: dict[int, Record] = {}
        self._by_frames: dict[tuple[str, ...], Record] = {}
        self.table: dict[int, list[Record]] = {}
        self.refused = 0
        self.hash_mask = _hash_mask(self._era, sum(end - start for start, end in machine.ram))
        asked = machine.boot.stack_depot_max_pools
        self.max_pools = default_max_pools(self._era) if asked is None else asked

    @property
    def _keeps_spare(self) -> bool:
        """The pool allocated ahead is kept in new_pool (6.8); up to 6.7 it gets its index at once."""
        return self._era.version >= (6, 8)

    @property
    def pool_size(self) -> int:
        """``DEPOT_POOL_SIZE``, bytes."""
        return self._era.page_size << DEPOT_POOL_ORDER

    def record_size(self, entries: int) -> int:
        """``depot_stack_record_size()``: bytes that a record of so many frames takes of its pool."""
        size = self._era.depot_header + 8 * entries
        return -(-size >> STACK_ALIGN) << STACK_ALIGN

    def handle(self, pool: int, offset: int) -> int:
        """``union handle_parts``: the handle of a record, extra bits 0."""
        index_bits, offset_bits, valid_bits, _ = self._era.depot_handle_bits
        index = pool + 1 if self._era.depot_index_plus_1 else pool
        valid = 1 << (index_bits + offset_bits) if valid_bits else 0
        return index | (offset >> STACK_ALIGN) << index_bits | valid

    def place(self, handle: int) -> tuple[int, int]:
        """The reverse: index of the pool, and offset in bytes. The extra bits do not matter."""
        index_bits, offset_bits, _, _ = self._era.depot_handle_bits
        index = handle & ((1 << index_bits) - 1)
        offset = handle >> index_bits & ((1 << offset_bits) - 1)
        return index - self._era.depot_index_plus_1, offset << STACK_ALIGN

    def fetch(self, handle: int) -> tuple[str, ...]:
        """``stack_depot_fetch()``: the frames of a handle; none of handle 0.

        :raises KeyError: No record has this handle.
        """
        return self.by_handle[handle].frames if handle else ()

    def save(self, stack: tuple[str, ...], gfp: Gfp) -> int:
        """``stack_depot_save()``: the handle of a stack; 0 when it is new and there is no room for it."""
        if not stack:
            return 0
        frames = stack[:_MAX_FRAMES]
        # find_stack(). The kernel goes through the bucket's chain.
        found = self._by_frames.get(frames)
        if found is not None:
            return found.handle
        value = zlib.crc32("\n".join(frames).encode(), _STACK_HASH_SEED)
        prealloc = self._prealloc(gfp)
        new = self._depot_alloc_stack(frames, value, prealloc)
        if new is None:
            self.refused += 1
            return 0
        self.records.append(new)
        self.by_handle[new.handle] = new
        self._by_frames[frames] = new
        self.table.setdefault(value & self.hash_mask, []).insert(0, new)
        return new.handle

    def _prealloc(self, gfp: Gfp) -> int | None:
        """What ``stack_depot_save_flags()`` allocates before it takes its lock: a pool, if none is ahead."""
        ahead = self.spare is not None if self._keeps_spare else self._next_pool_ready
        if ahead:
            return None
        if self._era.depot_obeys_nolock and not gfp & Gfp.RECLAIM:
            # 6.15: such a mask says that the caller may not spin, and so that the depot may not allocate.
            return None
        nested = gfp_nested_mask(self._era, gfp)
        with self._machine.calls(self._save_name):
            return self._machine.alloc_pages(DEPOT_POOL_ORDER, nested)

    @property
    def _save_name(self) -> str:
        """What the function was called that does all this."""
        if self._era.version < (5, 2):
            return "depot_save_stack"
        if self._era.version < (5, 16):
            return "stack_depot_save"
        return "__stack_depot_save" if self._era.version < (6, 8) else "stack_depot_save_flags"

    @property
    def _next_pool_ready(self) -> bool:
        """``next_slab_inited``, ``!next_pool_required``: up to 6.7, a pool beyond the current one is there.

        At the last index there is no next pool to wait for.
        """
        return len(self.pools) > self.pool_index + 1 or (
            self.pool_index + 1 >= self.max_pools and len(self.pools) == self.max_pools
        )

    def _depot_alloc_stack(self, frames: tuple[str, ...], value: int, prealloc: int | None) -> Record | None:
        """``depot_alloc_stack()``: a record in the pool being filled, or in the next."""
        size = self.record_size(len(frames))
        ready = self._room_with_spare if self._keeps_spare else self._room
        if not ready(size, prealloc):
            return None
        offset = self.pool_offset
        self.pool_offset += size
        return Record(self.handle(self.pool_index, offset), value, frames, self.pool_index, offset)

    def _room(self, size: int, prealloc: int | None) -> bool:
        """``depot_alloc_stack()`` and ``depot_init_pool()`` up to 6.7 (6.2: ``init_stack_slab()``)."""
        full = False
        if self.pool_offset + size > self.pool_size:
            if self.pool_index + 1 >= self.max_pools:
                full = True
            else:
                self.pool_index += 1
                self.pool_offset = 0
        if prealloc is not None:
            if full or len(self.pools) >= self.max_pools:
                # No index is left for it: "nobody used this memory, ok to free it".
                self._machine.free_pages(prealloc, DEPOT_POOL_ORDER)
            else:
                self.pools.append(prealloc)
        return not full and self.pool_index < len(self.pools)

    def _room_with_spare(self, size: int, prealloc: int | None) -> bool:
        """``depot_pop_free_pool()``, ``depot_init_pool()`` and ``depot_keep_new_pool()`` (6.8)."""
        fits = self.pool_offset + size <= self.pool_size
        if not fits and len(self.pools) < self.max_pools:
            if self.spare is None:
                self.spare, prealloc = prealloc, None
            if self.spare is not None:
                self.pools.append(self.spare)
                self.spare = None
                self.pool_index += 1
                self.pool_offset = 0
                fits = True
        if prealloc is not None:
            # Kept even when every pool is in use, and never used then.
            self.spare = prealloc
        return fits


def gfp_nested_mask(era: Era, gfp: Gfp) -> Gfp:
    """``gfp_nested_mask()`` (6.10): the mask for what an allocation needs itself.

    Reclaim is as the caller's, the zone is not, and a failure is no news. Since 6.10 the reserves are left
    alone as well.
    """
    nested = gfp & (Gfp.KERNEL | Gfp.ATOMIC) | Gfp.NOWARN
    return nested | Gfp.NORETRY | Gfp.NOMEMALLOC if era.version >= (6, 10) else nested


def default_max_pools(era: Era) -> int:
    """``DEPOT_MAX_POOLS``, before that ``STACK_ALLOC_MAX_SLABS``."""
    limit = 1 << era.depot_handle_bits[0]
    return min(limit - 1 if era.depot_index_plus_1 else limit, _POOLS_CAP)


def _hash_mask(era: Era, pages: int) -> int:
    """``stack_hash_mask``: buckets of the table less one, as ``stack_depot_early_init()`` sizes it."""
    low, high = _BUCKET_ORDERS
    if era.version < (6, 0):
        return (1 << high) - 1
    buckets = max((pages << era.page_shift) >> _STACK_HASH_TABLE_SCALE, 1)
    return (1 << min(max((buckets - 1).bit_length(), low), high)) - 1
