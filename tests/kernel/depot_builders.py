"""A stack depot made by hand, with all that lies in it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import drgn
import numpy as np

from mmdump.kernel.depot_gaps import SATURATED
from mmdump.kernel.depot_records import DepotRecords, read_records
from mmdump.kernel.depot_state import DepotState
from mmdump.kernel.depot_table import Chains, follow_chains, hashes
from mmdump.kernel.stackdepot import StackDepotLayout
from tests.kernel.builders import Kernelish
from tests.kernel.test_stackdepot import LAYOUT, POOL, POOLS, handle_of

TABLE = 0xFFFF888000800000
#: Up to 6.7: a null-terminated chain, no reference count.
OLD_LAYOUT = replace(
    LAYOUT, index_bits=16, biases=(0, 1), valid_bits=1, size_offset=12, handle_offset=16, entries_offset=24
)
STATE = DepotState(
    limit=8192, used=2, pool_offset=0, link_offset=0, lists=True, hash_offset=16, count_offset=28
)
OLD_STATE = replace(STATE, lists=False, hash_offset=8, count_offset=None)
FRAME = 0xFFFFFFFF81000000


def chain(number: int, depth: int) -> tuple[int, ...]:
    return tuple(FRAME + 0x1000 * number + 4 * index for index in range(depth))


@cache
def hash_of(frames: tuple[int, ...]) -> int:
    return int(hashes(np.array(frames, np.uint64), np.array([len(frames)]))[0])


@dataclass
class Depot:
    """Records as depot_alloc_stack() puts them: one behind the other, and in a table of eight buckets.

    :ivar placed: (pool, offset, frames, room) of each record.
    """

    old: bool = False
    pools: list[bytearray] = field(default_factory=lambda: [bytearray(POOL) for _ in POOLS])
    placed: list[tuple[int, int, tuple[int, ...], int]] = field(default_factory=list)
    heads: list[int] = field(default_factory=lambda: [0] * 8)
    pool: int = 0
    offset: int = 0

    def add(self, frames: Sequence[int], *, count: int = SATURATED, room: int | None = None) -> int:
        """Save a stack; returns the row that it will have."""
        frames = tuple(frames)
        start = 24 if self.old else 32
        room = room or (start + 8 * len(frames) + 15) & ~15
        if self.offset + room > POOL:
            self.pool, self.offset = self.pool + 1, 0
        digest = hash_of(frames)
        bucket, address = digest % 8, POOLS[self.pool] + self.offset
        if self.old:
            handle = self.pool | self.offset >> 4 << 16 | 1 << 26
            link = self.heads[bucket]
            raw = struct.pack("<QIII4x", link, digest, len(frames), handle)
        else:
            handle = handle_of(self.pool, self.offset)
            link = self.heads[bucket] or TABLE + 16 * bucket
            raw = struct.pack("<QQIIIi", link, 0, digest, len(frames), handle, count)
        raw += struct.pack(f"<{len(frames)}Q", *frames)
        self.pools[self.pool][self.offset : self.offset + len(raw)] = raw
        self.heads[bucket] = address
        self.placed.append((self.pool, self.offset, frames, room))
        self.offset += room
        return len(self.placed) - 1

    def write(self, row: int, at: int, form: str, *values: int) -> None:
        """Write over a record."""
        pool, offset, _, _ = self.placed[row]
        struct.pack_into(form, self.pools[pool], offset + at, *values)

    def address(self, row: int) -> int:
        return POOLS[self.placed[row][0]] + self.placed[row][1]

    @property
    def layout(self) -> StackDepotLayout:
        return OLD_LAYOUT if self.old else LAYOUT

    @property
    def state(self) -> DepotState:
        return replace(OLD_STATE if self.old else STATE, used=self.pool + 1, pool_offset=self.offset)

    def kernel(self, *holes: int) -> Kernelish:
        memory = {at: bytes(pool) for at, pool in zip(POOLS, self.pools, strict=True)}
        if self.old:
            memory[TABLE] = struct.pack("<8Q", *self.heads)
        else:
            empty = [head or TABLE + 16 * bucket for bucket, head in enumerate(self.heads)]
            memory[TABLE] = b"".join(struct.pack("<QQ", head, 0) for head in empty)
        kernel = Kernelish(memory, holes)
        kernel.constant("stack_hash_mask", 7, 4)
        element = kernel.integer(8)
        table = kernel.prog.pointer_type(element)
        kernel.objects["stack_table"] = drgn.Object(kernel.prog, table, value=TABLE)
        return kernel

    def records(self, *holes: int) -> DepotRecords:
        return read_records(self.kernel(*holes).reader, self.layout, self.state)

    def chains(self, *holes: int) -> Chains:
        kernel = self.kernel(*holes)
        records = read_records(kernel.reader, self.layout, self.state)
        found = follow_chains(kernel.prog, kernel.reader, self.state, records)
        assert found is not None
        return found


def filled(old: bool = False, count: int = 200) -> Depot:
    depot = Depot(old)
    for number in range(count):
        depot.add(chain(number, 1 + number % 16))
    assert depot.pool == 1
    return depot
