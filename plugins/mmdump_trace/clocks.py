"""The clocks of the tracer, and how they stand to the kernel's log's (kernel/trace/trace_clock.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.amounts import nsec_text
from mmdump.kernel.clock import sched_clock_offset
from mmdump.kernel.layout import find_object
from mmdump_trace.memory import text_at

if TYPE_CHECKING:
    from mmdump.target import Target

__all__ = ["TraceClock", "read_clock"]

#: ``trace_clock_local()`` is ``sched_clock()``; the others are ``sched_clock_cpu()`` and ``local_clock()``.
_SCHED_CLOCK, _LOG_CLOCKS = "local", ("global", "perf")


@dataclass(frozen=True)
class TraceClock:
    """A trace clock. Plain data.

    :param name: As in ``trace_clock``; None where that is not in the dump.
    :param in_ns: Whether it counts nanoseconds.
    :param to_log: Nanoseconds to add to its times for those of ``local_clock()``, by which the kernel dates
        its log and page_owner's records; None where neither follows from the other.
    """

    name: str | None
    in_ns: bool
    to_log: int | None

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return (
            "a trace clock whose name is not in the dump" if self.name is None else f"trace clock {self.name}"
        )

    @property
    def relation(self) -> str | None:
        """How its times stand to those of the kernel's log, in a sentence; None where they are the same."""
        if self.to_log is None:
            return (
                f"Times of events are of {self.title}: they cannot be compared with those of the kernel's "
                "log and of page_owner."
            )
        if not self.to_log:
            return None
        return (
            f"Times are of {self.title}: the same moment in the kernel's log and in page_owner is "
            f"{nsec_text(abs(self.to_log))} {'more' if self.to_log > 0 else 'less'}."
        )


def read_clock(target: Target, number: int) -> TraceClock:
    """A trace clock by its number (``trace_array.clock_id``), an index of ``trace_clocks``."""
    clocks = find_object(target.prog, "trace_clocks")
    try:
        if clocks is None or not 0 <= number < (clocks.type_.length or 0):
            return TraceClock(None, True, None)
        name = text_at(target.reader, clocks[number].name.value_()) or None
        in_ns = bool(clocks[number].in_ns.value_())
    except FaultError:
        return TraceClock(None, True, None)
    if name == _SCHED_CLOCK:
        return TraceClock(name, in_ns, sched_clock_offset(target.prog))
    return TraceClock(name, in_ns, 0 if name in _LOG_CLOCKS else None)
