"""XArrays and IDRs (kernel: lib/xarray.c, lib/idr.c), which have an end in a damaged dump too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError, Object

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Truncated", "idr_entries", "xarray_entries"]


class Truncated:
    """Takes note of what a walk could not follow.

    :ivar lost: Nodes that could not be read, or are garbage.
    """

    def __init__(self) -> None:
        self.lost = 0


def idr_entries(idr: Object, limit: int, truncated: Truncated) -> Iterator[tuple[int, int]]:
    """What an IDR holds, by ascending ID, as ``idr_for_each_entry()`` finds it: (ID, pointer).

    :param idr: A ``struct idr``.
    :param limit: Of nodes and of entries; what is beyond counts as lost.
    :raises drgn.FaultError: The structure itself is not in the dump.
    """
    base = idr.idr_base.value_()
    for index, entry in xarray_entries(idr.idr_rt, limit, truncated):
        yield index + base, entry


def xarray_entries(xarray: Object, limit: int, truncated: Truncated) -> Iterator[tuple[int, int]]:
    """What a ``struct xarray`` (a radix tree since 4.20) holds, by ascending index: (index, entry).

    :raises drgn.FaultError: The structure itself is not in the dump.
    """
    head = xarray.xa_head.value_()
    prog, left = xarray.prog_, [limit]
    if not _is_node(head):
        if head and head & 3 != _INTERNAL:
            yield 0, head
        return
    yield from _below(Object(prog, "struct xa_node *", head - _INTERNAL), 0, 64, left, truncated)


#: Entries that are the XArray's own have these low bits; those above this value are nodes.
_INTERNAL, _LEAST_NODE = 2, 4096


def _is_node(entry: int) -> bool:
    return entry & 3 == _INTERNAL and entry > _LEAST_NODE


def _below(
    node: Object, index: int, above: int, left: list[int], truncated: Truncated
) -> Iterator[tuple[int, int]]:
    """The entries of a node and of those below it.

    :param above: The shift of the node above: each level has a smaller one, so that there is no cycle.
    :param left: How many nodes and entries may still come.
    """
    try:
        shift, slots = node.shift.value_(), node.slots.value_()
    except FaultError:
        truncated.lost += 1
        return
    left[0] -= 1
    if shift >= above or left[0] < 0:
        truncated.lost += 1
        return
    for slot, entry in enumerate(slots):
        where = index + (slot << shift)
        if _is_node(entry) and shift:
            yield from _below(
                Object(node.prog_, node.type_, entry - _INTERNAL), where, shift, left, truncated
            )
        elif entry and entry & 3 != _INTERNAL:
            left[0] -= 1
            if left[0] < 0:
                truncated.lost += 1
                return
            yield where, entry
