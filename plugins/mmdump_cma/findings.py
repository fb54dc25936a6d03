"""What is worth saying of CMA areas: blocked, or the bitmap disagrees with pages or counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdump.amounts import bytes_text
from mmdump.result import Finding, Severity

if TYPE_CHECKING:
    from mmdump.result import Table

__all__ = ["findings_of"]


def findings_of(areas: Table, ranges: Table, *, moving: bool) -> list[Finding]:
    """One finding for each area and each thing that is wrong with it.

    :param moving: Whether memory was changing while it was read: then nothing can be held against each other.
    """
    found = [_blocked(row) for row in areas.frame.iter_rows(named=True) if row["blockers"]]
    if moving:
        return found
    coarse = set(ranges.frame.filter(ranges.frame["order_per_bit"] > 0)["area"])
    for row in areas.frame.iter_rows(named=True):
        name, counted, used = row["area"], row["counted"], row["used"]
        # Where a bit stands for several pages, what is counted is not rounded up to bits.
        if counted is not None and used is not None and counted != used and name not in coarse:
            found.append(
                Finding(
                    "cma-count",
                    Severity.WARNING,
                    f"CMA {name}: the kernel counts {bytes_text(counted)} as allocated, its bitmaps "
                    f"{bytes_text(used)}.",
                    "areas",
                    f"area = '{_quoted(name)}'",
                )
            )
    found += [_stray(row) for row in ranges.frame.iter_rows(named=True) if row["free_allocated"]]
    return found


def _stray(row: dict[str, Any]) -> Finding:
    return Finding(
        "cma-bitmap",
        Severity.PROBLEM,
        f"CMA {row['area']}: {row['free_allocated']} pages are allocated by its bitmap, but free, the first "
        f"at PFN {row['free_allocated_pfn']:#x}: they were freed without cma_release(), or the bitmap was "
        "overwritten.",
        "ranges",
        f"area = '{_quoted(row['area'])}' AND \"range\" = {row['range']}",
    )


def _blocked(row: dict[str, Any]) -> Finding:
    known = (
        f"longest run now {bytes_text(row['longest_now'])}, without them {bytes_text(row['longest_without'])}"
        if row["longest_now"] is not None
        else "how long a run could be is unknown"
    )
    return Finding(
        "cma-blocked",
        Severity.PROBLEM,
        f"CMA {row['area']}: {bytes_text(row['size'])}; {row['blockers']} "
        f"page{'s block' if row['blockers'] != 1 else ' blocks'} it; {known}; "
        f"mmdump pinned --cma names {'them' if row['blockers'] != 1 else 'it'}.",
        "blockers",
        f"area = '{_quoted(row['area'])}'",
        about=row["area"],
    )


def _quoted(name: str) -> str:
    return name.replace("'", "''")
