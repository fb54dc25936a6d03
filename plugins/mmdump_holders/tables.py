"""Holders as tables, findings and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.holders import Counted, Holder, State
from mmdump.result import Column, Finding, Kind, Schema, Severity, Table
from mmdump_holders.balance import balance_table
from mmdump_page_owner.stacks import stack_table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_holders.casework import Answer
    from mmdump_holders.ranges import Own

__all__ = ["HELD_BY", "HOLDERS", "Report", "held_by", "report", "summary_of"]

HOLDERS = Schema(
    "holders",
    (
        Column("pfn", Kind.PFN, "the first page of the folio"),
        Column(
            "state",
            Kind.TEXT,
            "live; possible: in use, and nobody knows for what; stale: left behind",
            values=tuple(each.value for each in State),
        ),
        Column("kind", Kind.TEXT, "what sort of holder it is, or of memory"),
        Column("held_by", Kind.TEXT, "the processes that have it"),
        Column("what", Kind.TEXT, "which part of it"),
        Column("name", Kind.TEXT, "its name, where it has one", private="path"),
        Column("references", Kind.COUNT, "references (or pins) that go with it", in_text=False),
        Column(
            "counted",
            Kind.TEXT,
            "as what: reference, pin, cache, private, batch or none",
            in_text=False,
            values=tuple(each.value for each in Counted),
        ),
        Column("pid", Kind.ID, "PID of the first of the processes", in_text=False),
        Column("comm", Kind.TEXT, "its name", in_text=False),
        Column("fd", Kind.ID, "its file descriptor", in_text=False),
        Column("object", Kind.ADDRESS, "the structure that it is about", in_text=False),
        Column("address", Kind.ADDRESS, "where the page's address stands"),
        Column("place", Kind.TEXT, "what that memory is"),
        Column("place_name", Kind.TEXT, "its slab cache, symbol, task or caller"),
        Column("place_offset", Kind.BITS, "how far into it", in_text=False),
        Column("why", Kind.TEXT, "what its state rests on", in_text=False),
        Column("page", Kind.PFN, "the page of the folio that is meant", in_text=False),
        Column("form", Kind.TEXT, "page (its struct page), direct (its memory), phys or pfn", in_text=False),
        Column("value", Kind.ADDRESS, "what stands there", in_text=False),
        Column("physical", Kind.ADDRESS, "the physical address of the place", in_text=False),
        Column(
            "stack_id",
            Kind.ID,
            "call chain that allocated the place",
            in_text=False,
        ),
    ),
    "Holders",
)

HELD_BY = Schema(
    "held_by",
    (
        Column("kind", Kind.TEXT, "what sort of holder it is"),
        Column("held_by", Kind.TEXT, "the processes that have it"),
        Column("name", Kind.TEXT, "its name, where it has one", private="path"),
        Column("folios", Kind.COUNT, "folios that it holds"),
        Column("references", Kind.COUNT, "references (or pins) to them that go with it", in_text=False),
        Column("first_pfn", Kind.PFN, "the first of the folios", in_text=False),
    ),
    "Held by",
)

_TYPES: Mapping[Kind, Any] = {
    Kind.TEXT: pl.String(),
    Kind.PFN: pl.Int64(),
    Kind.COUNT: pl.Int64(),
    Kind.ID: pl.Int64(),
    Kind.ADDRESS: pl.UInt64(),
    Kind.BITS: pl.Int64(),
}
_ORDER = {State.LIVE: 0, State.POSSIBLE: 1, State.STALE: 2}
#: What a holder's reference counts as, where the page's own counts do not tell of it.
_OWN = (Counted.REFERENCE.value, Counted.PIN.value)
#: Processes that are named for one holder.
_NAMED = 4


class Report:
    """Holders of some folios, ready for a result.

    :ivar tables: held_by, holders, balance and stacks, by name.
    :ivar summary: The answer in one sentence.
    """

    def __init__(self, tables: dict[str, Table], summary: str) -> None:
        self.tables = tables
        self.summary = summary
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.incomplete: list[str] = []


def report(kernel: Kernel, sought: pl.DataFrame, answer: Answer, own: Own) -> Report:
    """Put together what was found.

    :param sought: The folios: columns :data:`mmdump_holders.balance.SOUGHT`.
    """
    holders = sorted(answer.holders, key=lambda each: (each.hit.folio, _ORDER[each.state], each.hit.address))
    table = Table(HOLDERS, pl.DataFrame([_row(each) for each in holders], schema=_schema(), orient="row"))
    balance = balance_table(sought, holders)
    stacks, notes = stack_table(kernel, table.frame["stack_id"].drop_nulls().unique().to_list())
    tables = {"held_by": _held_by_table(table.frame), "holders": table, "balance": balance, "stacks": stacks}
    found = Report(tables, summary_of(holders, balance.frame))
    found.findings = _findings(balance.frame)
    found.notes += notes
    searched = answer.searched
    if searched.missing:
        found.notes.append(
            f"{searched.missing} of {searched.wanted} pages of kernel memory "
            f"{'could not be read' if kernel.target.live else 'are not in the dump'}: "
            "what they hold is unknown."
        )
    if not own.complete:
        found.notes.append("Where the page array lies is not fully known: some of it was searched too.")
    found.incomplete += [*answer.failed, *answer.cut]
    try:
        found.incomplete += _unnamed(kernel)
    except UnsupportedError as error:
        found.notes.append(f"Holders have no names: {error.message}.")
    return found


def _unnamed(kernel: Kernel) -> list[str]:
    """Why holders may have no names: one sentence for each reason."""
    try:
        parts = (("tasks", kernel.tasks.complete), ("open files", kernel.open_files.complete))
    except IncompleteError as error:
        return [f"holders have no names: {error.message}"]
    return [
        f"not all {what} could be read: holders may lack their names"
        for what, complete in parts
        if not complete
    ]


def _held_by_table(holders: pl.DataFrame) -> Table:
    """Live holders that have references, each once."""
    frame = (
        holders.filter(
            (pl.col("state") == "live") & (pl.col("references") > 0) & pl.col("counted").is_in(_OWN)
        )
        .group_by("kind", "held_by", "name")
        .agg(
            pl.col("pfn").n_unique().cast(pl.Int64).alias("folios"),
            pl.col("references").sum(),
            pl.col("pfn").min().alias("first_pfn"),
        )
        .sort(["folios", "first_pfn"], descending=[True, False])
    )
    return Table(HELD_BY, frame.select(HELD_BY.names))


def _schema() -> dict[str, Any]:
    return {column.name: _TYPES[column.kind] for column in HOLDERS.columns}


def _row(holder: Holder) -> tuple[Any, ...]:
    hit, place = holder.hit, holder.hit.place
    first = holder.owners[0] if holder.owners else None
    return (
        hit.folio,
        holder.state.value,
        holder.kind,
        held_by(holder) or None,
        holder.what or None,
        holder.name or None,
        holder.references,
        holder.counted.value,
        first.pid if first else None,
        first.comm if first else None,
        first.fd if first else None,
        holder.object or None,
        hit.address,
        place.kind,
        place.name or None,
        hit.address - place.start if place.start else None,
        place.why or None,
        hit.pfn,
        hit.form,
        hit.value,
        hit.physical,
        place.stack_id,
    )


def held_by(holder: Holder) -> str:
    """``pid 70 (work), fd 3 and 4``: the processes that have it, each once."""
    of: dict[tuple[int, str], list[int]] = {}
    for owner in holder.owners:
        descriptors = of.setdefault((owner.pid, owner.comm), [])
        if owner.fd is not None and owner.fd not in descriptors:
            descriptors.append(owner.fd)
    words = []
    for (pid, comm), descriptors in list(of.items())[:_NAMED]:
        shown = ", ".join(str(fd) for fd in sorted(descriptors)[:_NAMED])
        words.append(f"pid {pid} ({comm})" + (f", fd {shown}" if shown else ""))
    if len(of) > _NAMED:
        words.append(f"{len(of) - _NAMED} others")
    return "; ".join(words)


def summary_of(holders: Sequence[Holder], balance: pl.DataFrame) -> str:
    """Who holds how many of the folios: one sentence."""
    by: dict[str, set[int]] = {}
    live = [holder for holder in holders if holder.state is State.LIVE and holder.references]
    # The page cache and its like are only worth a word where there is nobody else.
    own = [holder for holder in live if holder.counted.value in _OWN]
    for holder in own or live:
        who = held_by(holder) or holder.name or "nobody with a name"
        by.setdefault(f"{holder.kind} of {who}", set()).add(holder.hit.folio)
    total = len(balance)
    folios = _folios(total)
    if not by:
        missing = int((balance["missing"] > 0).sum())
        if missing:
            which = f"{missing} of them {_have(missing)}" if total > 1 else "it has"
            return (
                f"{folios} searched for: no holder was found, and {which} references that nothing explains."
            )
        return f"{folios} searched for: no holder was found besides what each page's own counts explain."
    parts = [
        f"{len(pfns)} held by {who}"
        for who, pfns in sorted(by.items(), key=lambda each: (-len(each[1]), each[0]))[:_NAMED]
    ]
    if len(by) > _NAMED:
        parts.append(f"and {len(by) - _NAMED} other holders")
    return f"{folios}: {', '.join(parts)}"


def _folios(count: int) -> str:
    return f"{count} folio{'s' if count != 1 else ''}"


def _have(count: int) -> str:
    return "have" if count != 1 else "has"


def _next(missing: pl.DataFrame) -> str:
    """Where to look for holders that were not found: among what may be one, or at the machine."""
    trace = "trace page_ref:* on the machine, and of a dump mmdump pinned says who gets and puts references"
    folios = len(missing.filter(pl.col("possible") > 0))
    if not folios:
        return f"nothing else in memory points to {_them(missing)}: {trace}"
    whose = f"{folios} of them" if len(missing) > 1 else "it"
    return (
        f"--table holders --where \"state = 'possible'\" shows memory that may hold {whose}; "
        f"if that does not, {trace}"
    )


def _them(folios: pl.DataFrame) -> str:
    return "it" if len(folios) == 1 else "them"


def _findings(balance: pl.DataFrame) -> list[Finding]:
    findings = []
    missing = balance.filter(pl.col("missing") > 0)
    if len(missing):
        findings.append(
            Finding(
                "holder-missing",
                Severity.NOTE,
                f"{_folios(len(missing))} {_have(len(missing))} references whose holder was not found "
                f'(--table balance --where "missing > 0" names {_them(missing)}); {_next(missing)}.',
                "balance",
                "missing > 0",
            )
        )
    surplus = balance.filter(pl.col("surplus") > 0)
    if len(surplus):
        findings.append(
            Finding(
                "holder-surplus",
                Severity.PROBLEM,
                f"{_folios(len(surplus))} {_have(len(surplus))} fewer references than what "
                "holds them should have: "
                "a reference was dropped too often, or memory moved while it was read.",
                "balance",
                "surplus > 0",
            )
        )
    return findings
