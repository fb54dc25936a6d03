"""Where the stack depot's pools are broken: records fill a pool without gaps (depot_alloc_stack()).

What lies in a gap was a record once, and something wrote over it. And a frame may look like a record's
handle: what begins within a record is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmdump.kernel.arrays import I64, Bools, Struct

__all__ = ["BROKEN", "MAX_FRAMES", "REASONS", "SATURATED", "STEP", "Extents", "apart", "broken_places"]

#: Records begin at multiples of this many bytes (DEPOT_STACK_ALIGN).
STEP = 16
#: CONFIG_STACKDEPOT_MAX_FRAMES.
MAX_FRAMES = 64
#: REFCOUNT_SATURATED: the record stays for ever, and nobody counts its users.
SATURATED = -(1 << 30)
#: Why a place is broken.
REASONS = ("a record of an impossible size", "no record where one must begin")
IMPOSSIBLE_SIZE, NO_RECORD = range(2)
#: A place that is broken; ``reason`` is an index into :data:`REASONS`.
BROKEN = np.dtype([("pool", np.int64), ("offset", np.int64), ("reason", np.int64)])


@dataclass(frozen=True)
class Extents:
    """Where records lie, in the order of their places.

    :param pool: Index of the pool of each, int64.
    :param offset: Of each in its pool, bytes, int64.
    :param room: Bytes that each takes, int64.
    :param pool_size: Bytes of a pool.
    """

    pool: I64
    offset: I64
    room: I64
    pool_size: int

    @property
    def stride(self) -> int:
        """From one pool to the next on a scale on which a pool's end is not the next one's beginning."""
        return self.pool_size + STEP

    @property
    def start(self) -> I64:
        """Where each begins on that scale."""
        return self.pool * self.stride + self.offset

    @property
    def end(self) -> I64:
        """Where each ends on that scale."""
        return self.start + self.room


def apart(extents: Extents) -> Bools:
    """Which records do not begin within the one before: a frame may look like a handle."""
    start, end = extents.start, extents.end
    rows = np.arange(len(start))
    while len(rows):
        within = np.concatenate(([False], start[rows][1:] < end[rows][:-1]))
        # Of several in a row only the first is known to be within one that is itself a record.
        drop = within & ~np.concatenate(([False], within[:-1]))
        if not drop.any():
            break
        rows = rows[~drop]
    keep = np.zeros(len(start), np.bool_)
    keep[rows] = True
    return keep


def broken_places(
    extents: Extents,
    returnable: Bools,
    impossible: Struct,
    lost: Bools,
    pool_offset: int | None,
    largest: int,
) -> tuple[Struct, I64]:
    """Places that are no records and should be, and the room of each record as it turns out.

    At the end of a pool there may be less than the largest record takes, and nothing in it. A record that may
    be given back (KASAN's, 6.8) takes as much as the largest whatever its size.

    :param returnable: Which records may be such.
    :param impossible: Of :data:`BROKEN`: places with a right handle, but a size that cannot be.
    :param lost: Steps of 16 bytes that could not be read, of shape (pools, steps of a pool).
    :param pool_offset: Where records end in the last pool; None where that is not known.
    :param largest: Bytes that a record of :data:`MAX_FRAMES` takes.
    """
    pools, stride = len(lost), extents.stride
    firsts = np.arange(pools, dtype=np.int64) * stride
    stops = firsts + extents.pool_size
    if pools and pool_offset is not None:
        stops[-1] = firsts[-1] + pool_offset
    begins = np.concatenate((firsts, extents.end))
    places = np.sort(np.concatenate((extents.start, stops)))
    if not len(places):
        return np.empty(0, BROKEN), extents.room
    at = np.searchsorted(places, begins)
    stop = places[at.clip(max=len(places) - 1)]
    gap = np.maximum(stop - begins, 0)
    full = stops[:-1] if pool_offset is not None else stops
    tail = np.isin(stop, full) & ~np.isin(stop, extents.start)

    slack = gap[pools:] == largest - extents.room
    slack &= returnable & ~tail[pools:]
    room = np.where(slack, largest, extents.room)
    gap[pools:][slack] = 0

    suspect = (gap > 0) & ~(tail & (gap < largest))
    if lost.any():
        # One step more for each pool, as on the scale above.
        before = np.concatenate(([0], np.cumsum(np.pad(lost, ((0, 0), (0, 1))).ravel())))
        suspect &= before[(begins + gap) // STEP] == before[begins // STEP]
    found = np.zeros(np.count_nonzero(suspect), BROKEN)
    found["pool"], found["offset"] = begins[suspect] // stride, begins[suspect] % stride
    found["reason"] = NO_RECORD
    # The size stands first: a gap begins at the same place.
    both = np.concatenate((_outside(impossible, extents, stops), found))
    _, once = np.unique(both["pool"] * stride + both["offset"], return_index=True)
    return both[once], room


def _outside(impossible: Struct, extents: Extents, stops: I64) -> Struct:
    """Those that lie neither within a record (there, a frame looks like a handle) nor behind the last one."""
    at = impossible["pool"] * extents.stride + impossible["offset"]
    keep = at < stops[impossible["pool"]]
    if len(extents.pool):
        row = np.searchsorted(extents.start, at, side="right") - 1
        keep &= (row < 0) | (at >= extents.end[row.clip(min=0)])
    return impossible[keep]
