"""Every record of the stack depot, found in its pools (kernel: depot_alloc_stack(), lib/stackdepot.c).

Records lie one behind the other in a pool, at multiples of 16 bytes, and each has its own handle in it. So a
place holds a record when the handle there is the handle of that very place. That needs no hash table and no
list, holds for all kernels, and is done for hundreds of pools at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, U64, Bools, Struct
from mmdump.kernel.depot_gaps import BROKEN, MAX_FRAMES, SATURATED, STEP, Extents, apart, broken_places
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel.depot_state import DepotState
    from mmdump.kernel.stackdepot import StackDepotLayout
    from mmdump.target import Reader

__all__ = ["DepotRecords", "read_records"]

#: Pools that are looked at together: 4 MiB with pages of 4 KiB.
_BATCH = 256


@dataclass(frozen=True)
class DepotRecords:
    """All records, in the order of their places. Columns have one row for each record.

    :param handle: uint32, without the extra bits.
    :param pool: Index of its pool, int64.
    :param offset: In the pool, bytes, int64.
    :param address: uint64.
    :param size: Frames, int64, 1 to 64.
    :param room: Bytes it takes in the pool, int64.
    :param hash: uint32.
    :param count: Its reference count, int64; :data:`~mmdump.kernel.depot_gaps.SATURATED` where nobody counts.
        None before 6.8.
    :param link: The pointer to the next record of its bucket, uint64.
    :param frames: The frames of all records one after the other, innermost first, uint64.
    :param broken: Places where a record must be and is none: pool, offset, and why (an index into
        :data:`~mmdump.kernel.depot_gaps.REASONS`), int64 each.
    :param returnable: Which can be given back (KASAN's), so that they take as much room as the largest; bool.
    :param lost_bytes: Bytes of used pools that could not be read.
    """

    handle: Struct
    pool: I64
    offset: I64
    address: U64
    size: I64
    room: I64
    hash: Struct
    count: I64 | None
    link: U64
    frames: U64
    broken: Struct
    returnable: Bools
    lost_bytes: int = 0

    def __len__(self) -> int:
        return len(self.handle)

    @property
    def starts(self) -> I64:
        """Where each record's frames begin in :attr:`frames`, int64."""
        return np.cumsum(self.size) - self.size

    def find(self, addresses: U64) -> I64:
        """The rows of the records at these addresses, -1 where there is none; int64, of the same shape."""
        if not len(self):
            return np.full(len(addresses), -1, np.int64)
        order = np.argsort(self.address, kind="stable")
        at = np.searchsorted(self.address, addresses, sorter=order).clip(max=len(self) - 1)
        rows = order[at]
        return np.where(self.address[rows] == addresses, rows, -1).astype(np.int64)

    def find_handles(self, handles: Struct) -> I64:
        """The rows of the records with these handles (without extra bits), -1 where there is none."""
        if not len(self):
            return np.full(len(handles), -1, np.int64)
        order = np.argsort(self.handle, kind="stable")
        at = np.searchsorted(self.handle, handles, sorter=order).clip(max=len(self) - 1)
        rows = order[at]
        return np.where(self.handle[rows] == handles, rows, -1).astype(np.int64)


@dataclass(frozen=True)
class _Batch:
    """What was found in some pools: columns of records, those of an impossible size, and lost places."""

    columns: dict[str, Struct]
    frames: U64
    impossible: Struct
    lost: Bools


def read_records(reader: Reader, layout: StackDepotLayout, state: DepotState) -> DepotRecords:
    """Walk all pools that are in use. Never raises for what is in the dump."""
    addresses = np.array(layout.pools[: min(state.used, 1 << layout.index_bits)], np.uint64)
    bias: int | None = None
    batches = []
    for first in range(0, len(addresses), _BATCH):
        data, lost = _read_pools(reader, layout, addresses[first : first + _BATCH])
        if bias is None:
            # 6.9 counts pools from 1, 6.8 from 0: what finds records is right. See stackdepot.py.
            found = [int(_own(data, first, layout, each).sum()) for each in layout.biases]
            bias = layout.biases[int(np.argmax(found))] if any(found) else None
        guess = layout.biases[0] if bias is None else bias
        batches.append(_batch(data, lost, addresses, first, layout, state, guess))
    return _together(batches, addresses, layout, state)


def _read_pools(reader: Reader, layout: StackDepotLayout, addresses: U64) -> tuple[Struct, Bools]:
    """The bytes of pools, uint8 of shape (pools, bytes), and which steps of 16 bytes are missing."""
    steps = layout.pool_size // STEP
    data = np.zeros((len(addresses), layout.pool_size), np.uint8)
    lost = np.zeros((len(addresses), steps), np.bool_)
    for row, address in enumerate(addresses.tolist()):
        chunk = reader.read(address, layout.pool_size)
        data[row] = chunk.data
        if not chunk.complete:
            lost[row] = chunk.row_status(STEP, steps) != ReadStatus.READ
    return data, lost


def _own(data: Struct, first: int, layout: StackDepotLayout, bias: int) -> Bools:
    """Which steps of 16 bytes have their own handle where a record beginning there would have it."""
    words = data.view(np.dtype(layout.order + "u4"))
    steps = (layout.pool_size - layout.entries_offset) // STEP
    stored = words[:, layout.handle_offset // 4 :: STEP // 4][:, :steps] & np.uint32(layout.mask)
    pools = np.arange(first, first + len(data), dtype=np.uint64)[:, None] + np.uint64(bias)
    places = np.arange(steps, dtype=np.uint64)[None, :] << np.uint64(layout.index_bits)
    valid = ((1 << layout.valid_bits) - 1) << (layout.index_bits + layout.offset_bits)
    same: Bools = stored == (pools | places | np.uint64(valid))
    same &= pools < np.uint64(1 << layout.index_bits)
    if not bias and not first and not layout.valid_bits:
        # 6.8: the first record of all has the handle 0, which means none. Memory of zeros looks the same.
        same[0, 0] = False
    return same


def _batch(
    data: Struct,
    lost: Bools,
    addresses: U64,
    first: int,
    layout: StackDepotLayout,
    state: DepotState,
    bias: int,
) -> _Batch:
    own = _own(data, first, layout, bias)
    pool, step = np.nonzero(own & ~lost[:, : own.shape[1]])
    at = step * STEP
    order = layout.order
    size = _field(data, pool, at + layout.size_offset, order + "u4").astype(np.int64)
    possible = (size > 0) & (size <= MAX_FRAMES) & (at + layout.entries_offset + 8 * size <= layout.pool_size)
    impossible = np.zeros(np.count_nonzero(~possible), BROKEN)
    impossible["pool"], impossible["offset"] = pool[~possible] + first, at[~possible]
    pool, at, size = pool[possible], at[possible], size[possible]
    room = _room(layout, size)
    if lost.any():
        before = np.concatenate(([0], np.cumsum(lost.ravel())))
        start = (pool * layout.pool_size + at) // STEP
        whole = before[start + room // STEP] == before[start]
        pool, at, size, room = pool[whole], at[whole], size[whole], room[whole]
    index = np.repeat(np.cumsum(size) - size, size)
    within = np.arange(int(size.sum())) - index
    entries = np.repeat(at + layout.entries_offset, size) + 8 * within
    count = np.zeros(len(pool), np.int64)
    if state.count_offset is not None:
        count = _field(data, pool, at + state.count_offset, order + "i4").astype(np.int64)
    columns: dict[str, Struct] = {
        "handle": _field(data, pool, at + layout.handle_offset, order + "u4") & np.uint32(layout.mask),
        "pool": pool + first,
        "offset": at,
        "address": addresses[pool + first] + at.astype(np.uint64),
        "size": size,
        "room": room,
        "hash": _field(data, pool, at + state.hash_offset, order + "u4"),
        "count": count,
        "link": _field(data, pool, at + state.link_offset, order + "u8"),
    }
    return _Batch(columns, _field(data, np.repeat(pool, size), entries, order + "u8"), impossible, lost)


def _field(data: Struct, pool: I64, at: I64, dtype: str) -> Struct:
    """A member at these places of the pools, in the machine's own byte order. Members are aligned."""
    kind = np.dtype(dtype)
    picked = data.reshape(-1).view(kind)[(pool * data.shape[1] + at) // kind.itemsize]
    return picked.astype(kind.newbyteorder("="))


def _together(
    batches: list[_Batch], addresses: U64, layout: StackDepotLayout, state: DepotState
) -> DepotRecords:
    """One set of columns; what only looked like records is taken out, what should be some is found."""
    columns = {
        name: np.concatenate([np.empty(0, kind), *(each.columns[name] for each in batches)])
        for name, kind in _COLUMNS.items()
    }
    frames = np.concatenate([np.empty(0, np.uint64), *(each.frames for each in batches)])
    impossible = np.concatenate([np.empty(0, BROKEN), *(each.impossible for each in batches)])
    steps = layout.pool_size // STEP
    lost = np.concatenate([np.empty((0, steps), np.bool_), *(each.lost for each in batches)])
    offset = state.pool_offset
    keep = np.ones(len(columns["handle"]), np.bool_)
    if offset is not None:
        # What lies behind the last record was left there by an earlier user of the memory.
        keep = (columns["pool"] < len(addresses) - 1) | (columns["offset"] < offset)
        lost[-1:, offset // STEP :] = False
    keep[keep] = apart(_extents({name: column[keep] for name, column in columns.items()}, layout))
    frames = frames[np.repeat(keep, columns["size"])]
    columns = {name: column[keep] for name, column in columns.items()}
    largest = int(_room(layout, np.array([MAX_FRAMES]))[0])
    counts = (columns["count"] != SATURATED) & (state.count_offset is not None)
    broken, room = broken_places(_extents(columns, layout), counts, impossible, lost, offset, largest)
    count = columns.pop("count")
    return DepotRecords(
        **columns | {"room": room},
        count=None if state.count_offset is None else count,
        frames=frames,
        broken=broken,
        returnable=counts & (room == largest),
        lost_bytes=int(np.count_nonzero(lost)) * STEP,
    )


def _extents(columns: dict[str, Struct], layout: StackDepotLayout) -> Extents:
    return Extents(columns["pool"], columns["offset"], columns["room"], layout.pool_size)


def _room(layout: StackDepotLayout, size: I64) -> I64:
    """Bytes that records of so many frames take (``depot_stack_record_size()``)."""
    room: I64 = (layout.entries_offset + 8 * size + STEP - 1) & ~(STEP - 1)
    return room


#: Columns of :class:`DepotRecords` and their types.
_COLUMNS = {
    "handle": np.uint32,
    "pool": np.int64,
    "offset": np.int64,
    "address": np.uint64,
    "size": np.int64,
    "room": np.int64,
    "hash": np.uint32,
    "count": np.int64,
    "link": np.uint64,
}
