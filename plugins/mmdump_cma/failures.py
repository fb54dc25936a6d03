"""Allocations that failed, by the kernel's log and the areas' own counts: ``cma_alloc()`` of mm/cma.c."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.amounts import agreeing, bytes_text
from mmdump.errors import MmdumpError
from mmdump.kernel.arrays import printable
from mmdump.kernel.log import log_seconds, read_log
from mmdump.result import Finding, Severity

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.cma import CmaArea

__all__ = ["Failure", "failure_findings", "failures_in", "read_failures"]

#: "%s: %s: alloc failed, req-size: %lu pages, ret: %d": the area is named since 5.13 (%zu before 6.2). The
#: function that says so is cma_alloc(), __cma_alloc() (6.12), __cma_alloc_frozen() (7.0).
_FAILED = re.compile(
    rb"cma: (?:__)?cma_alloc(?:_frozen)?: (?:(?P<area>.{1,63}): )?"
    rb"alloc failed, req-size: (?P<pages>\d{1,12}) pages, ret: (?P<ret>-?\d{1,4})"
)
#: Failures told apart; a driver may try again for hours.
_MOST = 1 << 10
#: More were not asked for in the life of a machine.
_MOST_PAGES = 1 << 48
_WHY = {
    errno.EBUSY: "pages in the way could not be migrated",
    errno.ENOMEM: "no run of that length is unallocated",
    errno.EINTR: "a signal came",
}


@dataclass(frozen=True)
class Failure:
    """Allocations that failed in the same way.

    :param area: Name of the area; None where the kernel does not say.
    :param pages: What was asked for.
    :param error: The errno, positive.
    :param nsec: When the last of them failed.
    :param times: How often.
    """

    area: str | None
    pages: int
    error: int
    nsec: int
    times: int


def failures_in(messages: Iterator[tuple[int, bytes]]) -> list[Failure]:
    """The failures in a log, the newest first.

    :param messages: Nanoseconds and text, newest first.
    """
    found: dict[tuple[str | None, int, int], Failure] = {}
    for nsec, text in messages:
        match = _FAILED.search(text)
        if match is None:
            continue
        area = None if match["area"] is None else printable(match["area"])
        key = area, int(match["pages"]), abs(int(match["ret"]))
        known = found.get(key)
        if known is None and len(found) < _MOST:
            found[key] = Failure(*key, nsec, 1)
        elif known is not None:
            found[key] = Failure(*key, known.nsec, known.times + 1)
    return list(found.values())


def read_failures(kernel: Kernel) -> list[Failure]:
    """The failures in the kernel's log; none where it cannot be read."""
    try:
        return failures_in(iter(read_log(kernel.target)))
    except (FaultError, MmdumpError, LookupError, AttributeError, TypeError, ValueError, OverflowError):
        return []


def failure_findings(failures: list[Failure], areas: Iterable[CmaArea], page_size: int) -> list[Finding]:
    """A finding for each area of which an allocation failed: the last that did.

    :param areas: Their own counts say that something failed where the log does not: it is short, and says
        nothing of who did not want it to (``__GFP_NOWARN``).
    """
    told: dict[str | None, Finding] = {}
    for each in failures:
        if each.area in told:
            continue
        times = sum(other.times for other in failures if other.area == each.area)
        name = errno.errorcode.get(each.error, str(each.error))
        reason = f": {_WHY[each.error]}" if each.error in _WHY else ""
        before = f" (and {times - 1} before)" if times > 1 else ""
        area = "" if each.area is None else f" {each.area}"
        told[each.area] = Finding(
            "cma-failed",
            Severity.PROBLEM,
            f"CMA{area}: an allocation of {each.pages:,} {agreeing(each.pages, 'page', 'pages')} "
            f"({bytes_text(each.pages * page_size)}) failed with {name}{reason}; "
            f"{log_seconds(each.nsec)} s after boot{before}, by the kernel's log.",
            "areas",
            None if each.area is None else _where(each.area),
        )
    for one in areas:
        failed = one.failed or 0
        if one.area in told or failed <= 0:
            continue
        # A count that is garbage is not told as one.
        size = f" ({bytes_text(failed * page_size)})" if 0 < failed < _MOST_PAGES else ""
        told[one.area] = Finding(
            "cma-failed",
            Severity.WARNING,
            f"CMA {one.area}: allocations of {failed:,} {agreeing(failed, 'page', 'pages')} in all{size} "
            "failed since boot, by the "
            "area's own count; the kernel's log says nothing of them.",
            "areas",
            _where(one.area),
        )
    return list(told.values())


def _where(area: str) -> str:
    return f"area = '{area.replace(chr(39), chr(39) * 2)}'"
