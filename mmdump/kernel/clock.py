"""When the dump was taken, on the clock by which the kernel dates its records (dmesg, page_owner)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.layout import find_object
from mmdump.kernel.percpu import each_cpu

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["now_nsec"]

#: 146 years.
_MAX_NSEC = 1 << 62


def now_nsec(kernel: Kernel) -> int | None:
    """Nanoseconds of ``local_clock()`` when the dump was taken, to about a tick; None where it is unknown.

    Every run queue keeps the time of its last update by that clock (``rq_clock()``); the latest is taken, as
    the clock of an idle CPU stands still.
    """
    queues = find_object(kernel.target.prog, "runqueues")
    latest = 0
    try:
        for queue in each_cpu(kernel.target.prog, queues) if queues is not None else ():
            clock = queue.clock.value_()
            latest = max(latest, clock if clock < _MAX_NSEC else 0)
    except (FaultError, LookupError, AttributeError):
        # What was found is late enough: each CPU that runs keeps its own up to date.
        pass
    return latest or None
