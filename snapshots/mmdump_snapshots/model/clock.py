"""Time, and the work that waits for it (``local_clock()``, ``schedule_delayed_work()``)."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Clock", "Work"]

NSEC_PER_SEC = 1_000_000_000


@dataclass(order=True)
class Work:
    """``struct delayed_work``, queued.

    :ivar due: When it runs, ns.
    :ivar number: The order of queueing, for what is due at the same time.
    """

    due: int
    number: int
    function: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


class Clock:
    """A clock that moves only when it is told to.

    :ivar now: ns since boot.
    """

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self._queue: list[Work] = []
        self._queued = 0

    def tick(self, nanoseconds: int) -> None:
        """Something took so long. Work that is due has to wait for :meth:`advance`."""
        self.now += nanoseconds

    def schedule(self, seconds: float, function: Callable[[], None]) -> Work:
        """``schedule_delayed_work()``."""
        self._queued += 1
        work = Work(self.now + round(seconds * NSEC_PER_SEC), self._queued, function)
        heapq.heappush(self._queue, work)
        return work

    def cancel(self, work: Work) -> None:
        """``cancel_delayed_work_sync()``."""
        work.cancelled = True

    def advance(self, seconds: float) -> None:
        """Let time pass; work runs when its time has come, and may queue more."""
        end = self.now + round(seconds * NSEC_PER_SEC)
        while self._queue and self._queue[0].due <= end:
            work = heapq.heappop(self._queue)
            if not work.cancelled:
                self.now = max(self.now, work.due)
                work.function()
        self.now = max(self.now, end)

    @property
    def pending(self) -> int:
        """How much work is queued."""
        return sum(not work.cancelled for work in self._queue)
