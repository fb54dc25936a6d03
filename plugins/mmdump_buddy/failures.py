"""What the kernel's log says of allocations that failed: ``warn_alloc()`` of mm/page_alloc.c."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.errors import MmdumpError
from mmdump.kernel.arrays import printable
from mmdump.kernel.log import log_seconds, read_log
from mmdump.result import Column, Finding, Kind, Schema, Severity, Table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["FAILURES", "Failure", "failure_findings", "failure_table", "failures_in", "read_failures"]

#: "%s: page allocation failure: order:%u, mode:%#x(%pGg), nodemask=...": the task's name stands first.
_FAILED = re.compile(
    rb"^(?P<comm>.{0,15}): page allocation failure: order:(?P<order>\d{1,2}), mode:(?P<mode>0x[0-9a-f]{1,8})"
    rb"(?:\((?P<flags>[^)]{1,400})\))?"
)
#: Failures told apart; the kernel says no more than ten in five seconds.
_MOST = 1 << 10

FAILURES = Schema(
    "failures",
    (
        Column("order", Kind.ID, "order that was asked for"),
        Column("gfp_flags", description="how, by the names of gfp flags"),
        Column("gfp_mask", Kind.BITS, "the same as a number"),
        Column("comm", description="name of the task that last asked for it", private="comm"),
        Column("times", Kind.COUNT, "how often the log says so"),
        Column("last_nsec", Kind.NSEC, "when it was last, in the log's microseconds"),
    ),
    "Allocations that failed, by the kernel's log",
)


@dataclass
class Failure:
    """Allocations of one order and mode that failed.

    :param comm: The task of the last of them.
    :param nsec: When that was.
    """

    order: int
    mode: int
    flags: str
    comm: str
    nsec: int
    times: int = 1


def failures_in(messages: Iterable[tuple[int, bytes]]) -> list[Failure]:
    """The failures in a log, the newest first.

    :param messages: Nanoseconds and text, newest first.
    """
    found: dict[tuple[int, int], Failure] = {}
    for nsec, text in messages:
        match = _FAILED.search(text)
        if match is None:
            continue
        key = int(match["order"]), int(match["mode"], 16)
        if key in found:
            found[key].times += 1
        elif len(found) < _MOST:
            flags = printable(match["flags"] or b"")
            found[key] = Failure(*key, flags or hex(key[1]), printable(match["comm"]), nsec)
    return list(found.values())


def read_failures(kernel: Kernel) -> list[Failure]:
    """The failures in the kernel's log; none where it cannot be read."""
    try:
        return failures_in(read_log(kernel.target))
    except (FaultError, MmdumpError, LookupError, AttributeError, TypeError, ValueError, OverflowError):
        return []


def failure_table(failures: list[Failure]) -> Table:
    """The failures as a table, the newest first."""
    return Table.of_rows(
        FAILURES,
        [
            {
                "order": each.order,
                "gfp_flags": each.flags,
                "gfp_mask": each.mode,
                "comm": each.comm,
                "times": each.times,
                # The log itself says no more.
                "last_nsec": each.nsec // 1000 * 1000,
            }
            for each in failures
        ],
    )


def failure_findings(failures: list[Failure]) -> list[Finding]:
    """One finding for all of them: the newest, and how many there are."""
    if not failures:
        return []
    last = failures[0]
    times = sum(each.times for each in failures)
    before = f", the last of {times} in the log" if times > 1 else ""
    return [
        Finding(
            "allocation-failed",
            Severity.PROBLEM,
            f"The kernel had no block of order {last.order} for {last.flags} at {log_seconds(last.nsec)} s"
            f"{before}.",
            FAILURES.name,
        )
    ]
