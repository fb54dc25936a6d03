"""Stack depot: from a handle to the stack it stands for (kernel: lib/stackdepot.c).

drgn's own helper trusts the handle and decides by a member's name how to read it. Here every record must say
itself that it is the one the handle means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind, offsetof

from mmdump.errors import UnsupportedError
from mmdump.kernel.layout import byteorder, find_object, find_type
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.target import Reader

__all__ = ["Stack", "StackDepot", "StackDepotLayout", "StackStatus", "read_stack_depot_layout"]

#: CONFIG_STACKDEPOT_MAX_FRAMES; record.size is never larger.
_MAX_FRAMES = 64
#: Offsets within a pool are in units of 16 bytes (DEPOT_STACK_ALIGN).
_ALIGN_SHIFT = 4
#: More pools than the widest handle can name.
_MAX_POOLS = 1 << 21


class StackStatus(Enum):
    """Whether a handle led to a stack."""

    OK = "ok"
    #: The handle is 0: nothing was recorded.
    NONE = "none"
    #: It names a pool or a place in it that does not exist.
    BAD_HANDLE = "bad handle"
    #: What lies there is not the record of this handle: its own copy of the handle differs.
    NOT_A_RECORD = "not a record"
    #: The record is not in the dump.
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Stack:
    """A call chain.

    :param handle: Its handle, without the extra bits.
    :param frames: Return addresses, innermost first.
    """

    handle: int
    frames: tuple[int, ...]
    status: StackStatus


@dataclass(frozen=True)
class StackDepotLayout:
    """How this kernel lays out the depot. Plain data.

    :param pools: Addresses of the pools in use.
    :param index_bits: Width of the pool number, in the lowest bits of a handle.
    :param offset_bits: Width of the offset above it.
    :param valid_bits: Width of the bit above that, which is set in every handle (up to 6.7).
    :param biases: What may have to be subtracted from the pool number, likelier first.
    :param size_offset: Offset of ``size`` in a record; likewise for the handle and the entries.
    """

    pools: tuple[int, ...]
    index_bits: int
    offset_bits: int
    biases: tuple[int, ...]
    size_offset: int
    handle_offset: int
    entries_offset: int
    order: str
    valid_bits: int = 0

    @property
    def mask(self) -> int:
        """The bits of a handle that name a record; above them are extra bits of its user."""
        return (1 << (self.index_bits + self.offset_bits + self.valid_bits)) - 1

    @property
    def pool_size(self) -> int:
        """Bytes that an offset can reach: the size of a pool."""
        return 1 << (self.offset_bits + _ALIGN_SHIFT)


def read_stack_depot_layout(prog: Program, reader: Reader) -> StackDepotLayout | None:
    """Find the depot's pools and the widths of a handle's parts; None where this kernel has no depot.

    :raises UnsupportedError: The depot has a form that mmdump does not know.
    """
    parts = find_type(prog, "union handle_parts")
    record = find_type(prog, "struct stack_record")
    if parts is None or record is None:
        return None
    # stack_slabs up to 6.2.
    name = next(
        (each for each in ("stack_pools", "stack_slabs") if find_object(prog, each) is not None), None
    )
    if name is None or parts.members is None:
        raise UnsupportedError("mmdump does not know this kernel's stack depot yet")
    struct = next(each.type for each in parts.members if each.type.kind == TypeKind.STRUCT)
    widths = {each.name: each.bit_field_size or 0 for each in struct.members or ()}
    # 6.9 renamed pool_index to pool_index_plus_1 one release candidate after giving it that meaning, and
    # distributions backported the one without the other: both are tried, the record itself decides.
    biases: tuple[int, ...]
    if "pool_index_plus_1" in widths:
        index_bits, biases = widths["pool_index_plus_1"], (1, 0)
    elif "pool_index" in widths:
        index_bits, biases = widths["pool_index"], (0, 1)
    elif "slabindex" in widths:  # up to 6.2
        index_bits, biases = widths["slabindex"], (0,)
    else:
        raise UnsupportedError("mmdump does not know this kernel's stack depot handles yet")
    return StackDepotLayout(
        pools=_pool_addresses(prog, reader, name),
        index_bits=index_bits,
        offset_bits=widths["offset"],
        biases=biases,
        size_offset=offsetof(record, "size"),
        handle_offset=offsetof(record, "handle"),
        entries_offset=offsetof(record, "entries"),
        order=byteorder(prog),
        valid_bits=widths.get("valid", 0),
    )


def _pool_addresses(prog: Program, reader: Reader, name: str) -> tuple[int, ...]:
    pools = prog[name]
    kind = pools.type_.unaliased()
    count = find_object(prog, "pools_num")
    try:
        used = int(count.value_()) if count is not None else int(kind.length or 0)
        # An array up to 6.14; a pointer to one from 6.17.
        start = pools.value_() if kind.kind == TypeKind.POINTER else pools.address_
    except FaultError:
        return ()
    limit = _MAX_POOLS if kind.kind == TypeKind.POINTER else int(kind.length or 0)
    if start is None or not 0 < used <= limit:
        used = limit if kind.kind != TypeKind.POINTER else 0
    if not used:
        return ()
    chunk = reader.read(int(start or 0), used * 8)
    return tuple(chunk.data.view(byteorder(prog) + "u8").tolist())


class StackDepot:
    """Stacks by handle; each is read once."""

    def __init__(self, reader: Reader, layout: StackDepotLayout) -> None:
        self.layout = layout
        self._reader = reader
        self._stacks: dict[int, Stack] = {}

    def stack(self, handle: int) -> Stack:
        """The stack of a handle. Its status says why it has no frames, if it has none; never raises."""
        handle &= self.layout.mask
        found = self._stacks.get(handle)
        if found is None:
            found = self._stacks[handle] = self._read(handle)
        return found

    def stacks(self, handles: Iterable[int]) -> list[Stack]:
        """The stacks of several handles, in their order."""
        return [self.stack(handle) for handle in handles]

    def _read(self, handle: int) -> Stack:
        if not handle:
            return Stack(handle, (), StackStatus.NONE)
        layout = self.layout
        index = handle & ((1 << layout.index_bits) - 1)
        offset = (handle >> layout.index_bits & ((1 << layout.offset_bits) - 1)) << _ALIGN_SHIFT
        status = StackStatus.BAD_HANDLE
        for bias in layout.biases:
            pool = index - bias
            if not 0 <= pool < len(layout.pools) or not layout.pools[pool]:
                continue
            if offset + layout.entries_offset > layout.pool_size:
                continue
            frames = self._record(layout.pools[pool] + offset, layout.pool_size - offset, handle)
            if not isinstance(frames, StackStatus):
                return Stack(handle, frames, StackStatus.OK)
            # The likelier place says what is wrong; what lies at the other is no record, as a rule.
            if status is StackStatus.BAD_HANDLE:
                status = frames
        return Stack(handle, (), status)

    def _record(self, address: int, room: int, handle: int) -> tuple[int, ...] | StackStatus:
        layout = self.layout
        # Records are shorter than their type: reading sizeof(struct stack_record) may leave the pool.
        chunk = self._reader.read(address, min(room, layout.entries_offset + 8 * _MAX_FRAMES))
        if chunk.row_status(layout.entries_offset, 1)[0] == ReadStatus.UNREADABLE:
            return StackStatus.UNREADABLE
        word = np.dtype(layout.order + "u4")
        size = int(np.frombuffer(chunk.data, word, 1, layout.size_offset)[0])
        own = int(np.frombuffer(chunk.data, word, 1, layout.handle_offset)[0])
        if own & layout.mask != handle:
            return StackStatus.NOT_A_RECORD
        if not 0 < size <= _MAX_FRAMES or layout.entries_offset + 8 * size > room:
            return StackStatus.NOT_A_RECORD
        # What follows the record may be missing, but not a part of it.
        if chunk.row_status(layout.entries_offset + 8 * size, 1)[0] == ReadStatus.UNREADABLE:
            return StackStatus.UNREADABLE
        entries = np.frombuffer(chunk.data, layout.order + "u8", size, layout.entries_offset)
        return tuple(entries.tolist())
