"""The guard between analyses that run together: one that fails, or takes too long, costs only itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mmdump.result import Result

__all__ = ["Attempt", "Guard", "OutOfTimeError", "Outcome", "Progress"]

T = TypeVar("T")

#: Called with (pages done, pages in all) after each range.
Progress = Callable[[int, int], None]


class OutOfTimeError(Exception):
    """An analysis took longer than it may."""


def _too_long(most: float) -> str:
    return f"it took more than the {most:g} seconds it was given"


@dataclass
class Outcome:
    """What became of one analysis among others.

    :param result: None when it failed, or was dropped.
    :param error: Why it was: what it raised, or :class:`OutOfTimeError`.
    :param seconds: Time it took for itself; columns of pages that several need are charged to the first.
    """

    result: Result | None = None
    error: Exception | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Guard:
    """That analyses do not cost one another.

    :param most: Seconds that each may take; None for no limit.
    """

    most: float | None


@dataclass(eq=False)
class Attempt:
    """One analysis under way: what it may take, and what becomes of it.

    :param guard: None where what it raises is the caller's.
    """

    guard: Guard | None = None
    outcome: Outcome = field(default_factory=Outcome)

    def call(self, what: Callable[..., T], *given: Any) -> T | None:
        """Call a part of the analysis; where it is guarded, None if that fails or it is out of time."""
        if self.guard is None:
            return what(*given)
        if self.outcome.error is not None:
            return None
        begun = time.monotonic()
        try:
            return what(*given)
        except Exception as error:
            self.outcome.error = error
            return None
        finally:
            self.outcome.seconds += time.monotonic() - begun

    def watched(self, progress: Progress | None) -> Progress | None:
        """Progress of work that it does for itself, which ends when it is out of time.

        :raises OutOfTimeError: What is returned does, when it is called after that.
        """
        most = None if self.guard is None else self.guard.most
        if most is None:
            return progress
        end = time.monotonic() + most - self.outcome.seconds

        def report(done: int, total: int) -> None:
            if time.monotonic() > end:
                raise OutOfTimeError(_too_long(most))
            if progress is not None:
                progress(done, total)

        return report

    def in_time(self) -> bool:
        """Whether it goes on: it has not failed, and has time left."""
        outcome, most = self.outcome, None if self.guard is None else self.guard.most
        if outcome.error is None and most is not None and outcome.seconds > most:
            outcome.error = OutOfTimeError(_too_long(most))
        return outcome.error is None
