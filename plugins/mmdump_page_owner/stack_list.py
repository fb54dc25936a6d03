"""The stacks that page_owner counts, in its own order: ``stack_list`` of mm/page_owner.c (6.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind, offsetof, sizeof

from mmdump.kernel.arrays import U64
from mmdump.kernel.layout import byteorder, find_object, has_member
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["FILE", "StackList", "read_stack_list"]

#: Where page_owner's variables are; ``stack_list`` and ``struct stack`` are names that others may use.
FILE = "mm/page_owner.c"
#: A depot has not more stacks than handles.
_MAX_STACKS = 1 << 22


@dataclass(frozen=True)
class StackList:
    """The list as it lies in memory, newest stack first.

    :param records: Addresses of the stack records, uint64; those of the list's last two may be 0.
    :param loop: Whether it leads back into itself.
    :param lost: Whether it ends at a node that is not in the dump.
    """

    records: U64
    loop: bool = False
    lost: bool = False


def read_stack_list(kernel: Kernel) -> StackList | None:
    """Walk ``stack_list``; None where page_owner does not count (up to 6.8)."""
    prog, reader = kernel.target.prog, kernel.target.reader
    head = find_object(prog, "stack_list", FILE)
    if head is None or head.type_.unaliased().kind != TypeKind.POINTER:
        return None
    node = head.type_.unaliased().type.unaliased()
    if not has_member(node, "stack_record") or not has_member(node, "next"):
        return None
    size, record_at, next_at = sizeof(node), offsetof(node, "stack_record"), offsetof(node, "next")
    word = np.dtype(byteorder(prog) + "u8")
    records: list[int] = []
    seen: set[int] = set()
    try:
        address = int(head.value_())
    except FaultError:
        return StackList(np.empty(0, np.uint64), lost=True)
    while address:
        if address in seen or len(seen) == _MAX_STACKS:
            return StackList(np.array(records, np.uint64), loop=True)
        seen.add(address)
        chunk = reader.read(address, size)
        if chunk.row_status(size, 1)[0] != ReadStatus.READ:
            return StackList(np.array(records, np.uint64), lost=True)
        records.append(int(chunk.data[record_at : record_at + 8].view(word)[0]))
        address = int(chunk.data[next_at : next_at + 8].view(word)[0])
    return StackList(np.array(records, np.uint64))
