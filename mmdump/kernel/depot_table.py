"""The stack depot's hash table: which records a bucket leads to (kernel: find_stack(), lib/stackdepot.c).

All chains are followed together, a step at a time, among records that the pools are known to hold: nothing is
read but the table itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind

from mmdump.kernel.arrays import I64, U64, Bools, Struct
from mmdump.kernel.depot_state import FILE
from mmdump.kernel.layout import byteorder, find_object
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel.depot_records import DepotRecords
    from mmdump.kernel.depot_state import DepotState
    from mmdump.target import Reader

__all__ = ["Chains", "follow_chains", "hashes"]

#: STACK_HASH_ORDER_MIN and _MAX: between 4096 and 1048576 buckets. More than the latter are garbage.
_ORDERS = range(12, 21)
_MAX_BUCKETS = 1 << 24


@dataclass(frozen=True)
class Chains:
    """What the hash table leads to.

    :param lengths: Records in the chain of each bucket, int64.
    :param reached: Which records are in a chain, bool.
    :param misplaced: Rows of records that are in another bucket's chain than their hash says, int64.
    :param stray: Pointers in a bucket or a record that lead to no record, uint64.
    :param loops: Chains that lead to a record that is in a chain already.
    :param lost: Buckets that could not be read.
    """

    lengths: I64
    reached: Bools
    misplaced: I64
    stray: U64
    loops: int
    lost: int


def follow_chains(prog: Program, reader: Reader, state: DepotState, records: DepotRecords) -> Chains | None:
    """Follow the chains of all buckets; None where the table was not found."""
    found = _table(prog)
    if found is None:
        return None
    address, buckets = found
    stride = 16 if state.lists else 8
    chunk = reader.read(address, (buckets or 1 << _ORDERS[-1]) * stride)
    heads = chunk.data.view(byteorder(prog) + "u8").astype(np.uint64)[:: stride // 8]
    status = chunk.row_status(stride, len(heads))
    if buckets is None:
        buckets = _length(heads, records)
        heads, status = heads[:buckets], status[:buckets]
    # Where a chain ends: at its bucket, or before 6.8 at a null pointer.
    ends = np.uint64(address) + np.arange(buckets, dtype=np.uint64) * np.uint64(stride)
    if not state.lists:
        ends = np.zeros(buckets, np.uint64)
    return _follow(heads, ends, status == ReadStatus.READ, state, records)


def _table(prog: Program) -> tuple[int, int | None] | None:
    """Where the table is, and how many buckets it has; None in the place of these where nothing says so."""
    table = find_object(prog, "stack_table", FILE)
    table = table if table is not None else find_object(prog, "stack_table")
    if table is None:
        return None
    kind = table.type_.unaliased()
    if kind.kind == TypeKind.ARRAY:  # up to 5.11
        return int(table.address_ or 0), int(kind.length or 0)
    mask = find_object(prog, "stack_hash_mask", FILE)
    mask = mask if mask is not None else find_object(prog, "stack_hash_mask")
    try:
        address = int(table.value_())
        buckets = None if mask is None else int(mask.value_()) + 1  # 6.0
    except FaultError:
        return None
    if not address or (buckets is not None and (not 1 < buckets <= _MAX_BUCKETS or buckets & (buckets - 1))):
        return None
    return address, buckets


def _length(heads: U64, records: DepotRecords) -> int:
    """The length of a table that nothing tells (5.12 to 5.19: 1 << CONFIG_STACK_HASH_ORDER).

    The bucket of a record is its hash modulo the length: with the right one most buckets hold a record that
    belongs there.
    """

    def agreement(order: int) -> int:
        return int(np.count_nonzero(heads[records.hash & np.uint32((1 << order) - 1)] == records.address))

    return 1 << max(_ORDERS, key=agreement)


def _follow(heads: U64, ends: U64, known: Bools, state: DepotState, records: DepotRecords) -> Chains:
    lengths = np.zeros(len(heads), np.int64)
    reached = np.zeros(len(records), np.bool_)
    misplaced: list[I64] = []
    stray: list[U64] = []
    loops = 0
    # A bucket that nobody ever used may be a null pointer where it should point to itself.
    bucket = np.flatnonzero(known & (heads != ends) & (heads != 0))
    pointer = heads[bucket]
    mask = np.uint32(len(heads) - 1) if len(heads) else np.uint32(0)
    while len(bucket):
        rows = records.find(pointer - np.uint64(state.link_offset))
        stray.append(pointer[rows < 0])
        bucket, rows = bucket[rows >= 0], rows[rows >= 0]
        # Each record is in one chain, once: whatever leads to it again is broken, and goes no further.
        _, once = np.unique(rows, return_index=True)
        fresh = np.zeros(len(rows), np.bool_)
        fresh[once] = True
        fresh &= ~reached[rows]
        loops += int(np.count_nonzero(~fresh))
        bucket, rows = bucket[fresh], rows[fresh]
        reached[rows] = True
        lengths[bucket] += 1
        misplaced.append(rows[(records.hash[rows] & mask) != bucket])
        pointer = records.link[rows]
        more = (pointer != ends[bucket]) & (pointer != 0)
        bucket, pointer = bucket[more], pointer[more]
    return Chains(
        lengths=lengths,
        reached=reached,
        misplaced=np.concatenate([np.empty(0, np.int64), *misplaced]),
        stray=np.concatenate([np.empty(0, np.uint64), *stray]),
        loops=loops,
        lost=int(np.count_nonzero(~known)),
    )


def hashes(frames: U64, size: I64) -> Struct:
    """``hash_stack()``: the hash that the depot gives to each of these stacks, uint32.

    :param frames: The frames of all stacks one after the other.
    :param size: How many each has.
    """
    found = np.zeros(len(size), np.uint32)
    starts = np.cumsum(size) - size
    # jhash2() takes 32 bits at a time, the lower half of each frame first.
    words = np.ascontiguousarray(frames).astype("<u8").view("<u4")
    for each in np.unique(size).tolist():
        rows = np.flatnonzero(size == each)
        index = (2 * starts[rows])[:, None] + np.arange(2 * each)
        found[rows] = _jhash2(words[index].T.astype(np.uint32))
    return found


def _jhash2(words: Struct) -> Struct:
    """``jhash2()`` (include/linux/jhash.h) of columns of words: uint32 of shape (words, rows)."""
    initial = np.uint32((0xDEADBEEF + 4 * len(words) + 0x9747B28C) & 0xFFFFFFFF)
    a, b, c = (np.full(words.shape[1], initial, np.uint32) for _ in range(3))
    at = 0
    while len(words) - at > 3:
        a, b, c = a + words[at], b + words[at + 1], c + words[at + 2]
        for shift in (4, 6, 8, 16, 19, 4):
            a = (a - c) ^ _rotated(c, shift)
            c = c + b
            a, b, c = b, c, a
        at += 3
    rest = words[at:]
    if len(rest) == 0:
        return c
    a, b, c = (x + (rest[i] if i < len(rest) else np.uint32(0)) for i, x in enumerate((a, b, c)))
    # __jhash_final()
    c = (c ^ b) - _rotated(b, 14)
    a = (a ^ c) - _rotated(c, 11)
    b = (b ^ a) - _rotated(a, 25)
    c = (c ^ b) - _rotated(b, 16)
    a = (a ^ c) - _rotated(c, 4)
    b = (b ^ a) - _rotated(a, 14)
    return (c ^ b) - _rotated(b, 24)


def _rotated(words: Struct, shift: int) -> Struct:
    """``rol32()``."""
    return words << np.uint32(shift) | words >> np.uint32(32 - shift)
