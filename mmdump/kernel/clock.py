"""The clock by which the kernel dates its records (dmesg, page_owner), and when the dump was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.layout import find_object, has_member
from mmdump.kernel.percpu import each_cpu

if TYPE_CHECKING:
    from drgn import Object, Program

    from mmdump.kernel import Kernel

__all__ = ["LATEST_NSEC", "latest_nsec", "now_nsec", "sched_clock_offset"]

#: 146 years: no record is dated later.
LATEST_NSEC = 1 << 62
#: By how much :func:`now_nsec` may be early, generously.
_TICK_NSEC = 1_000_000_000


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
            latest = max(latest, clock if clock < LATEST_NSEC else 0)
    except (FaultError, LookupError, AttributeError):
        # What was found is late enough: each CPU that runs keeps its own up to date.
        pass
    return latest or None


def latest_nsec(kernel: Kernel) -> int:
    """What is dated later than this, by ``local_clock()``, is garbage: it would be later than the dump."""
    now = now_nsec(kernel)
    return LATEST_NSEC if now is None else now + _TICK_NSEC


def sched_clock_offset(prog: Program) -> int | None:
    """What ``local_clock()`` adds to ``sched_clock()``, nanoseconds; None where that is no one number.

    Mirrors ``local_clock()`` of kernel/sched/clock.c. Where an architecture's ``sched_clock()`` may be
    unstable (CONFIG_HAVE_UNSTABLE_SCHED_CLOCK: x86) the kernel marks it stable late in boot, and from then on
    adds ``__sched_clock_offset`` (4.11; before, nothing), so that time goes on from where it was. While it is
    not stable, ``local_clock()`` filters it by the ticks. Elsewhere (arm64) the two are the same.
    """
    stable = find_object(prog, "__sched_clock_stable")
    if stable is None:
        return 0
    try:
        if _is_on(stable):
            offset = find_object(prog, "__sched_clock_offset")
            value = 0 if offset is None else int(offset.value_())
            # It is a u64, and mostly negative.
            value -= (value >> 63) << 64
            return value if abs(value) < LATEST_NSEC else None
        running = find_object(prog, "sched_clock_running")
        return 0 if running is not None and not _is_on(running) else None
    except (FaultError, LookupError, AttributeError, TypeError):
        return None


def _is_on(key: Object) -> bool:
    """``static_key_enabled()``, of a key with a type of its own, or a plain one, or of what was an int."""
    if has_member(key.type_, "key"):
        key = key.key
    return bool((key.enabled.counter if has_member(key.type_, "enabled") else key).value_() > 0)
