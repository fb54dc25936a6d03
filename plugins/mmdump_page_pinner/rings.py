"""The rings in which Android's page pinner keeps what happened (``struct captured_pinner``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind, sizeof

from mmdump.errors import IncompleteError
from mmdump.kernel.layout import enumerators, find_object, has_member, struct_dtype
from mmdump.kernel.stackdepot import StackStatus
from mmdump.target.faults import fault_words
from mmdump.target.reader import MAX_READ, ReadStatus
from mmdump_page_pinner.android import FILE

if TYPE_CHECKING:
    from drgn import Object

    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Bools, Struct

__all__ = [
    "FAILURES",
    "LONGTERM",
    "Ring",
    "Written",
    "read_ring",
    "ring_variable",
    "tracks_failures",
    "written",
]

#: The two rings by what they are for: pages that were held for long, and what happened to pages that were in
#: the way; and their variables, newest first. B1 (Android 13) left one of them, and allocates it.
LONGTERM, FAILURES = "longterm", "failures"
_VARIABLES = {LONGTERM: ("lt_buffer", "lt_pinner"), FAILURES: ("pp_buffer", "acf_buffer", "acf_pinner")}

_MEMBERS = {
    "handle": ("handle",),
    "usec": ("ts_usec",),
    "pfn": ("pfn",),
    "count": ("count",),
    "mapcount": ("mapcount",),
    "mapping": ("mapping",),
    "flags": ("flags", "page_flags"),
    "migratetype": ("page_mt",),
    "state": ("state",),
}


@dataclass(frozen=True)
class Ring:
    """A ring as it is in memory.

    :param name: :data:`LONGTERM` or :data:`FAILURES`.
    :param variable: What the kernel calls it.
    :param size: Records there is room for.
    :param index: Where the next one goes.
    :param slots: All places, the newest record first: a structured array of the members there are; see
        ``_MEMBERS`` for the columns.
    :param readable: Which of them were read.
    :param cleared: Whether places without a record are zero. An allocated ring is not cleared.
    :param states: ``enum pp_state`` by number, without its prefix; none before Android 13's form.
    """

    name: str
    variable: str
    size: int
    index: int
    slots: Struct
    readable: Bools
    cleared: bool
    states: dict[int, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this kernel's records have."""
        return self.slots.dtype.names or ()

    def elapsed(self, rows: Struct) -> Bools:
        """For which of these records ``usec`` is no time, but how long it took: puts, and long pins."""
        if self.name == LONGTERM:
            return np.ones(len(rows), bool)
        if "state" not in self.columns:
            return np.zeros(len(rows), bool)
        put = [number for number, name in self.states.items() if name == "PUT"]
        return np.isin(rows["state"], put)


@dataclass(frozen=True)
class Written:
    """The records of a ring.

    :param rows: Numbers of the places that hold one, the newest first, int64.
    :param garbage: Places that must hold one, and hold what cannot be.
    :param unreadable: Places that are not in the dump.
    """

    rows: I64
    garbage: int
    unreadable: int


def ring_variable(kernel: Kernel, name: str) -> Object | None:
    """The variable of a ring; None where this kernel has no such ring."""
    for variable in _VARIABLES[name]:
        found = find_object(kernel.target.prog, variable, FILE)
        if found is not None:
            return found
    return None


def tracks_failures(kernel: Kernel) -> bool:
    """``failure_tracking``: on unless somebody switched it off; the first kernels have no such switch."""
    key = find_object(kernel.target.prog, "failure_tracking")
    if key is None:
        return True
    try:
        return bool(key.key.enabled.counter.value_() > 0)
    except FaultError:
        return True


def read_ring(kernel: Kernel, name: str) -> Ring | None:
    """Read a ring; None where this kernel has none of that name.

    :raises IncompleteError: It is not in the dump, or its size is garbage.
    """
    prog = kernel.target.prog
    ring = ring_variable(kernel, name)
    if ring is None:
        return None
    variable = next(each for each in _VARIABLES[name] if find_object(prog, each, FILE) is not None)
    captured = prog.type("struct captured_pinner")
    dtype = struct_dtype(prog, captured, _MEMBERS, optional=tuple(_MEMBERS))
    # Called pinner up to A2.
    member = "buffer" if has_member(ring.type_, "buffer") else "pinner"
    places = ring.member_(member)
    try:
        index = int(ring.index.value_())
        allocated = places.type_.unaliased().kind == TypeKind.POINTER
        if allocated:
            size_of = find_object(prog, "pp_buf_size", FILE)
            size = int(size_of.value_()) if size_of is not None else 0
            address = int(places.value_())
        else:
            size, address = int(places.type_.unaliased().length or 0), int(places.address_ or 0)
    except FaultError as error:
        raise IncompleteError(f"{variable} could not be read: {fault_words(error)}") from error
    if not 0 < size <= MAX_READ // sizeof(captured):
        raise IncompleteError(f"{variable} is garbage: it has room for {size} records")
    if not address:
        raise IncompleteError(f"{variable} was never allocated")
    if index >= size:
        raise IncompleteError(f"{variable} is garbage: index {index} of {size}")
    chunk = kernel.target.reader.read(address, size * dtype.itemsize)
    readable = chunk.row_status(dtype.itemsize, size) == ReadStatus.READ
    order = (index - 1 - np.arange(size, dtype=np.int64)) % size
    states = enumerators(prog, "enum pp_state")
    return Ring(
        name,
        variable,
        size,
        index,
        # As bytes: what lies between members is to stay.
        chunk.data.reshape(size, dtype.itemsize)[order].view(dtype).reshape(size),
        readable[order],
        not allocated,
        {number: text.removeprefix("PP_") for text, number in states.items()},
    )


def written(kernel: Kernel, ring: Ring) -> Written:
    """Find the places that hold a record.

    An allocated ring is not cleared: only of the places before its index is it certain that they were
    written. Beyond these, as the ring may have come around, records count as far as they can be true.
    """
    slots = ring.slots
    possible = ring.readable & (slots["pfn"] < kernel.memmap.end_pfn)
    if "state" in ring.columns:
        possible &= np.isin(slots["state"], list(ring.states))
    rows = np.arange(ring.size, dtype=np.int64)
    if ring.cleared:
        empty = ring.readable & ~(slots.view(np.uint8).reshape(ring.size, -1).any(axis=1))
        rows = rows[~empty]
    else:
        certain = ring.index
        # Where what is beyond begins to be impossible, nobody wrote yet.
        beyond = np.flatnonzero(~possible[certain:])
        end = certain + (int(beyond[0]) if len(beyond) else ring.size - certain)
        rows = rows[: _known(kernel, slots["handle"], certain, end)]
    unreadable = int(np.count_nonzero(~ring.readable[rows]))
    found = rows[possible[rows]]
    return Written(found, len(rows) - len(found) - unreadable, unreadable)


def _known(kernel: Kernel, handles: Struct, certain: int, end: int) -> int:
    """The first of the places [certain, end) whose handle leads to no call chain; end if all do."""
    depot = kernel.stack_depot
    if depot is None:
        return certain
    for place in range(certain, end):
        if depot.stack(int(handles[place])).status not in (StackStatus.OK, StackStatus.UNREADABLE):
            return place
    return end
