"""What Android's page pinner recorded, before it has a layout: parts of :class:`.state.State`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CapturedState", "PinnerState", "RingState"]


@dataclass(frozen=True)
class CapturedState:
    """What Android's page pinner recorded of a page, ``struct captured_pinner``.

    :ivar usec: The time, or how long it took.
    :ivar mapping: A virtual address, or 0.
    :ivar flags: Bit i is the flag ``State.page_flags[i]``.
    :ivar migratetype: One of :data:`.state.MIGRATETYPES`.
    :ivar state: ``enum pp_state``.
    """

    handle: int
    usec: int
    pfn: int
    count: int
    mapcount: int
    mapping: int
    flags: int
    migratetype: str
    state: int


@dataclass(frozen=True)
class RingState:
    """A ring of such records.

    :ivar name: The variable.
    :ivar index: Where the next one goes.
    :ivar slots: Records by their place; the other places hold whatever was in that memory.
    :ivar buffer: Virtual address of the places; 0 where they are in the variable, and were zero.
    """

    name: str
    size: int
    index: int
    slots: Mapping[int, CapturedState]
    buffer: int = 0


@dataclass(frozen=True)
class PinnerState:
    """Android's page pinner.

    :ivar size: ``pp_buf_size``.
    :ivar threshold: ``threshold_usec``.
    :ivar failure_tracking: The static key.
    """

    rings: Sequence[RingState]
    size: int
    threshold: int
    failure_tracking: bool
    failure_handle: int
