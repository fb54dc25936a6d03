"""What ftrace has recorded, before it has a layout: a part of :class:`.state.State`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["TraceEvent", "TraceState"]


@dataclass(frozen=True)
class TraceEvent:
    """An event of the page pinner, and the stack that was recorded after it.

    :ivar name: Of the event.
    :ivar time: On the trace's clock, ns, which is the log's too: no kernel here has an offset between them.
    :ivar stack_time: The same of the stack.
    :ivar flags: Names of page flags, as in ``PG_locked``.
    :ivar mapping: ``page->mapping`` with its tag bits, a virtual address.
    :ivar mt: Migratetype by name, of :data:`.state.MIGRATETYPES`.
    :ivar stack: Return addresses, innermost first.
    :ivar reason: What it was to be migrated for, in an event of the RFC's second version that says so.
    :ivar err: What came of that.
    """

    name: str
    time: int
    stack_time: int
    cpu: int
    pid: int
    comm: str
    pfn: int
    flags: Sequence[str]
    count: int
    mapcount: int
    mapping: int
    mt: str
    stack: Sequence[int]
    reason: str | None = None
    err: int = 0


@dataclass(frozen=True)
class TraceState:
    """A trace instance.

    :ivar events: What it recorded, or was to record, in order of time.
    :ivar buffer_size: Bytes of each CPU's ring buffer; 0 for as many as hold all of it.
    :ivar overwrite: Whether the newest events take the place of the oldest; if not, they are lost.
    :ivar subbuf_order: Of sub-buffers (6.8).
    :ivar consumed: How many entries of a CPU somebody has read from ``trace_pipe``.
    :ivar instances: Of the top one: others by name, in the order in which they were made.
    """

    events: Sequence[TraceEvent]
    buffer_size: int = 0
    overwrite: bool = True
    subbuf_order: int = 0
    consumed: Mapping[int, int] = field(default_factory=dict)
    instances: Mapping[str, TraceState] = field(default_factory=dict)
