"""Many small reads at once: structures that lie scattered over memory, as rows of one array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import U8, U64, Struct
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.target import Reader

__all__ = ["gather"]

#: Rows copied at a time, so that their indices do not grow with what is asked for.
_BATCH = 1 << 14
#: Bytes of one read.
_RUN = 1 << 20
#: Neighbours that are further apart, in bytes, are not read together.
_NEAR = 1 << 12


def gather(reader: Reader, addresses: U64, dtype: np.dtype[np.generic]) -> tuple[Struct, U8]:
    """Read an item at each address.

    Addresses that lie close together are read in one piece, so that a million objects of a few slabs cost
    not much more than those slabs. Nothing is raised for what is in the dump.

    :param addresses: uint64, in any order, as often as one likes.
    :param dtype: Of the items.
    :return: The items in the order of the addresses, zeros where one cannot be read; and the
        :class:`ReadStatus` of each, uint8.
    """
    size = dtype.itemsize
    data = np.zeros((len(addresses), size), np.uint8)
    status = np.full(len(addresses), ReadStatus.UNREADABLE, np.uint8)
    order = np.argsort(addresses, kind="stable")
    for low in range(0, len(order), _BATCH):
        rows = order[low : low + _BATCH]
        # What would end past the last address cannot be read.
        rows = rows[addresses[rows] <= np.uint64(((1 << 64) - 1) - size)]
        wanted = addresses[rows]
        near = np.flatnonzero(np.diff(wanted) > np.uint64(max(_NEAR, size))) + 1
        for first, end in zip([0, *near.tolist()], [*near.tolist(), len(rows)], strict=True):
            _read_run(reader, wanted[first:end], rows[first:end], data, status)
    return data.view(dtype).reshape(-1), status


def _read_run(reader: Reader, wanted: U64, rows: np.ndarray, data: U8, status: U8) -> None:
    """Read items that lie close together, ascending, in pieces of limited size."""
    size = data.shape[1]
    first = 0
    while first < len(wanted):
        base = int(wanted[first])
        end = int(np.searchsorted(wanted, np.uint64(min(base + _RUN, (1 << 64) - 1)), side="right"))
        start = (wanted[first:end] - np.uint64(base)).astype(np.int64)
        chunk = reader.read(base, int(start[-1]) + size)
        data[rows[first:end]] = chunk.data[start[:, None] + np.arange(size)]
        if chunk.complete:
            status[rows[first:end]] = ReadStatus.READ
        else:
            shift = chunk.page_size.bit_length() - 1
            skew = base % chunk.page_size
            status[rows[first:end]] = np.maximum(
                chunk.status[(start + skew) >> shift], chunk.status[(start + skew + size - 1) >> shift]
            )
        first = end
    lost = rows[status[rows] != ReadStatus.READ]
    data[lost] = 0
