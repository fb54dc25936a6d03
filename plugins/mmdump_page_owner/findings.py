"""What page_owner's records and the stack depot say of themselves: what is broken, and what has no owner."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from mmdump.amounts import bytes_text, counted
from mmdump.result import Finding, Severity
from mmdump_page_owner.chains import BROKEN, SPECIAL, UNREADABLE, Chains

__all__ = ["broken_depot", "garbage_records", "unattributed", "unreadable_chains"]


def _amount(pages: int, page_size: int) -> str:
    return f"{counted(pages, 'page')} ({bytes_text(pages * page_size)})"


def _have(pages: int, page_size: int) -> str:
    return f"{_amount(pages, page_size)} {'has' if pages == 1 else 'have'}"


def garbage_records(pages: int) -> Iterator[Finding]:
    """Records of an order that no allocation has."""
    if pages:
        yield Finding(
            "page-owner-garbage",
            Severity.WARNING,
            f"{counted(pages, 'page')} with a page_owner record of an impossible order: not counted.",
        )


def broken_depot(broken: pl.DataFrame, chains: Chains, page_size: int) -> Iterator[Finding]:
    """Handles that the depot has no record for.

    :param broken: Their sums, which are in no other.
    """
    status = chains.of(broken["stack_id"], "status")
    for reason in BROKEN:
        rows = broken.filter(status == reason)
        if len(rows):
            yield Finding(
                "page-owner-broken-stack",
                Severity.WARNING,
                f"{_have(int(rows['pages'].sum()), page_size)} one of {rows['stack_id'].n_unique()} "
                f"stack depot handles that lead to no record of their own: {reason}. They are not counted.",
                "stacks",
                f"status = '{reason}'",
            )


def unreadable_chains(sums: pl.DataFrame, chains: Chains, page_size: int) -> Iterator[str]:
    """One sentence when call chains are not in the dump; their pages are counted."""
    rows = sums.filter(chains.of(sums["stack_id"], "status") == UNREADABLE)
    if len(rows):
        chains_lost = rows["stack_id"].n_unique()
        yield (
            f"{counted(chains_lost, 'call chain')}, of {_amount(int(rows['pages'].sum()), page_size)}, "
            f"{'is' if chains_lost == 1 else 'are'} not in the dump"
        )


def unattributed(sums: pl.DataFrame, chains: Chains, page_size: int, *, by_chain: bool) -> Iterator[Finding]:
    """Pages whose record says that page_owner could not tell who allocated them."""
    special = chains.of(sums["stack_id"], "special")
    for name, meaning in SPECIAL.items():
        rows = sums.filter(special == name)
        if not len(rows):
            continue
        # The depot's failure loses what was asked for; the two others are the machine's own business.
        severity = Severity.WARNING if name == "failure_handle" else Severity.NOTE
        yield Finding(
            f"page-owner-{name.removesuffix('_handle')}",
            severity,
            f"{_have(int(rows['pages'].sum()), page_size)} {name} in place of a call chain: {meaning}.",
            "groups" if by_chain else None,
            f"special = '{name}'" if by_chain else None,
        )
