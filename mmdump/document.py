"""What a report says: findings, sections and provenance. Data only, like the results it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmdump.result import Finding, Result, Table

__all__ = ["Report", "Section", "Told"]


@dataclass(frozen=True)
class Section:
    """The answer of one analysis, or why it has none.

    :param name: Of the analysis.
    :param title: What it is about, in a few words.
    :param result: None when it failed, or was dropped.
    :param error: Why it has no result; one sentence.
    :param seconds: Time it took.
    :param totals: Rows of tables that the result holds only the first of.
    :param plugin: The plugin it comes from; empty for mmdump itself.
    """

    name: str
    title: str
    result: Result | None = None
    error: str | None = None
    seconds: float = 0.0
    totals: Mapping[str, int] = field(default_factory=dict)
    plugin: str = ""

    def rows(self, table: Table) -> int:
        """How many rows a table has, also where not all are kept."""
        return self.totals.get(table.name, table.frame.height)


@dataclass(frozen=True)
class Told:
    """A finding in its place among all findings.

    :param section: Name of the section that it comes from.
    :param evidence: The rows that are its evidence, or the first of them.
    :param rows: How many such rows there are; None where not all rows were kept.
    """

    section: str
    finding: Finding
    evidence: Table | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Report:
    """A document about one dump.

    :param title: What it is a report of.
    :param facts: What was running there: a few facts for its head.
    :param findings: All findings, the most important first.
    :param sections: In order of reading.
    :param absent: (name, reason) of each analysis that could not run.
    :param provenance: Tables that say where all this comes from.
    :param target: What was analysed, as plain data.
    :param masked: What a redacted report masks, and what it still tells; empty where it is not redacted.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    findings: Sequence[Told] = ()
    sections: Sequence[Section] = ()
    absent: Sequence[tuple[str, str]] = ()
    provenance: Sequence[Table] = ()
    target: Mapping[str, object] = field(default_factory=dict)
    masked: Sequence[str] = ()

    @property
    def incomplete(self) -> list[str]:
        """One sentence for each thing that was needed and could not be had, and the sections that lack it."""
        lacking: dict[str, list[str]] = {}
        for each in self.sections:
            sentences = [] if each.error is None else [each.error]
            if each.result is not None:
                sentences += each.result.incomplete
            for sentence in sentences:
                names = lacking.setdefault(sentence, [])
                if each.name not in names:
                    names.append(each.name)
        return [f"{', '.join(names)}: {sentence}" for sentence, names in lacking.items()]
