"""A kernel's trace, opened: layout, instances, formats and names, each read once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from drgn import BadDataError, FaultError

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.target.faults import fault_words
from mmdump_trace.comms import SavedComms, read_saved_comms
from mmdump_trace.formats import EventFormats, read_event_formats
from mmdump_trace.instances import Instance, find_instance, read_instances
from mmdump_trace.layout import TraceLayout, read_trace_layout, why_no_trace
from mmdump_trace.printing import EventPrinter
from mmdump_trace.rings import read_ring
from mmdump_trace.stream import Source

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_trace.clocks import TraceClock

__all__ = ["Trace", "check_trace", "open_trace", "trace_clock"]

_Found = TypeVar("_Found")


class Trace:
    """One instance of the tracer in a dump.

    :ivar problems: What is wrong with what leads to it, one sentence each.
    """

    def __init__(self, kernel: Kernel, name: str | None = None) -> None:
        self._kernel = kernel
        target = kernel.target
        self.layout, self.instance = _instance(kernel, name)
        self.problems: list[str] = []
        self.source = Source(
            target.reader,
            self.layout,
            read_ring(target, self.layout, self.instance.buffer),
            self.instance.time_start,
        )

    @cached_property
    def formats(self) -> EventFormats:
        """All events of this kernel."""
        formats = read_event_formats(self._kernel)
        if formats.problem is not None:
            self.problems.append(formats.problem)
        return formats

    @cached_property
    def comms(self) -> SavedComms:
        """Names of tasks."""
        found = read_saved_comms(self._kernel.target)
        if not found.complete:
            self.problems.append("the names of tasks that the tracer remembers are not all in the dump")
        return found

    @cached_property
    def printer(self) -> EventPrinter:
        """Text of events."""
        return EventPrinter(self._kernel, self.formats, self.instance)


def open_trace(kernel: Kernel, instance: str | None = None) -> Trace:
    """Open the trace of an instance, the top one by default.

    :raises UnsupportedError: This kernel has no tracer, or no instance of that name.
    :raises IncompleteError: What leads to it is not in the dump, or is garbage.
    """
    return _opened(lambda: Trace(kernel, instance))


def trace_clock(kernel: Kernel, instance: str | None = None) -> TraceClock:
    """The clock of an instance, the top one by default, whether or not its buffers are in the dump.

    :raises UnsupportedError: This kernel has no tracer, or no instance of that name.
    :raises IncompleteError: What leads to it is not in the dump, or is garbage.
    """
    return _opened(lambda: _instance(kernel, instance)[1].clock)


def check_trace(kernel: Kernel) -> None:
    """Whether there is a trace to open.

    :raises UnsupportedError: This kernel has no tracer that mmdump knows.
    :raises IncompleteError: No instance is in the dump.
    """
    _, instances, _ = _opened(lambda: _instances(kernel))
    if not instances:
        raise IncompleteError("no trace instance could be found")


def _instances(kernel: Kernel) -> tuple[TraceLayout, list[Instance], str | None]:
    target = kernel.target
    reason = why_no_trace(target.prog)
    if reason is not None:
        raise UnsupportedError(reason)
    layout = read_trace_layout(target.prog, target.page_size)
    return layout, *read_instances(target, layout)


def _instance(kernel: Kernel, name: str | None) -> tuple[TraceLayout, Instance]:
    layout, instances, wrong = _instances(kernel)
    return layout, find_instance(instances, name, wrong)


def _opened(opening: Callable[[], _Found]) -> _Found:
    try:
        return opening()
    except (FaultError, BadDataError) as error:
        raise IncompleteError(f"the trace could not be read: {fault_words(error)}") from error
    except (OSError, OverflowError, ValueError) as error:
        raise IncompleteError(f"the trace could not be made out: {error}") from error
    except (LookupError, AttributeError, TypeError) as error:
        raise UnsupportedError(f"mmdump does not know the tracer of this kernel: {error}") from error
