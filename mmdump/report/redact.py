"""A report without names and kernel addresses: each has a pseudonym, the same one everywhere.

It is the report that is changed, before any format is written: no format can forget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

from mmdump.document import Report, Section, Told
from mmdump.report.secrets import merged, secret_of, secrets_in
from mmdump.result import Column, Finding, Kind, Result, Table

__all__ = ["redacted"]

#: A kernel address in text: 64 bits of which the highest is set.
_ADDRESS = re.compile(r"(?<![0-9A-Za-z_])(?:0x)?([89a-fA-F][0-9a-fA-F]{15})(?![0-9A-Za-z_])")
#: A frame's module, at its end or before its source line; and a path from the root of a file system.
_MODULE = re.compile(r"\[([^\[\]]+)\](?= \(|$)")
_PATH = re.compile(r"(?<![\w./])/[^\s():]+/[^\s():]+")

MASKED = (
    (
        "Masked: kernel addresses (addr-N), and the names of tasks (comm-N), cgroups (cgroup-N), files "
        "(path-N), the host (host-N) and modules (module-N). A pseudonym stands for the same thing "
        "everywhere in this report, and for something else in another."
    ),
    (
        "Still told: page frame numbers, sizes, counts and times; PIDs and UIDs; the functions of call "
        "chains; the kernel's release and build ID; names of zones, CMA areas, slab caches and trace events; "
        "numbers of stacks and inodes; versions of mmdump and of its plugins; and what the kernel printed "
        "when it died, but for such names."
    ),
)


def redacted(report: Report, secrets: Mapping[str, str]) -> Report:
    """The report with pseudonyms.

    :param secrets: Names to mask, with their sorts, besides those in the report's own columns.
    """
    mask = _Mask(merged(secrets, secrets_in(report)))
    return replace(
        report,
        title=mask.text(report.title),
        facts=[(what, mask.text(value)) for what, value in report.facts],
        findings=[_told(mask, each) for each in report.findings],
        sections=[_section(mask, each) for each in report.sections],
        absent=[(name, mask.text(reason)) for name, reason in report.absent],
        provenance=[mask.table(each) for each in report.provenance],
        target=mask.mapping(report.target),
        masked=MASKED,
    )


@dataclass
class _Mask:
    """What stands for what.

    :param secrets: Names with their sorts.
    """

    secrets: Mapping[str, str]
    _names: dict[str, str] = field(default_factory=dict)
    _addresses: dict[int, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    _frames: dict[str, str] = field(default_factory=dict)

    def name(self, name: str, sort: str) -> str:
        """The pseudonym of a name."""
        if not name.strip("/ "):
            # The root of a hierarchy, or no name at all.
            return name
        found = self._names.get(name)
        if found is None:
            number = self._counts[sort] = self._counts.get(sort, 0) + 1
            found = self._names[name] = f"{sort}-{number}"
        return found

    def address(self, address: int) -> str | None:
        """The pseudonym of an address; 0 is no address."""
        if not address:
            return "0x0"
        return self._addresses.setdefault(address, f"addr-{len(self._addresses) + 1}")

    def text(self, text: str) -> str:
        """A sentence with every secret in it masked."""
        found = self._texts.get(text)
        if found is None:
            found = self._without_paths(self._without_addresses(self._without_names(text)))
            self._texts[text] = found
        return found

    def frame(self, text: str) -> str:
        """A frame of a call chain: functions stay, but for the name of a module in that of its own."""
        found = self._frames.get(text)
        if found is None:
            found = text
            module = _MODULE.search(text)
            if module is not None:
                sort = self.secrets.get(module[1], "module")
                found = _replaced(text, module[1], self.name(module[1], sort))
            found = self._without_paths(self._without_addresses(found))
            self._frames[text] = found
        return found

    def _without_paths(self, text: str) -> str:
        return _PATH.sub(lambda found: self.name(found[0], "path"), text)

    def _without_addresses(self, text: str) -> str:
        return _ADDRESS.sub(lambda found: str(self.address(int(found[1], 16))), text)

    @cached_property
    def _wanted(self) -> dict[str, str]:
        """What to look for in texts: a condition doubles quotes in a name."""
        wanted = {}
        for name, sort in self.secrets.items():
            for form in {name, name.replace("'", "''")}:
                if form.strip("/ "):
                    wanted[form] = self.name(name, sort)
        return wanted

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(name) for name in self._wanted}, reverse=True)

    def _without_names(self, text: str) -> str:
        """Names that stand for themselves: not amid a word or number."""
        out: list[str] = []
        at = 0
        while at < len(text):
            for length in self._lengths:
                name = text[at : at + length]
                if len(name) == length and name in self._wanted and _stands(text, at, at + length):
                    out.append(self._wanted[name])
                    at += length
                    break
            else:
                out.append(text[at])
                at += 1
        return "".join(out)

    def table(self, table: Table) -> Table:
        """A table with its secrets masked: addresses become text."""
        columns, series = [], []
        for column in table.schema.columns:
            given = table.frame[column.name]
            change = self._change(column)
            if column.kind is Kind.ADDRESS:
                column = replace(column, kind=Kind.TEXT)  # noqa: PLW2901
            columns.append(column)
            series.append(given if change is None else _mapped(given, change))
        schema = replace(table.schema, columns=tuple(columns))
        return Table(schema, pl.DataFrame(series) if series else table.frame)

    def _change(self, column: Column) -> Callable[[Any], str | None] | None:
        sort = secret_of(column)
        if sort is not None:
            return lambda value: self.name(str(value), sort)
        if column.kind is Kind.ADDRESS:
            return lambda value: self.address(int(value))
        if column.kind is Kind.TEXT:
            return lambda value: self.text(str(value))
        if column.kind is Kind.STACK:
            return lambda value: self.frame(str(value))
        return None

    def mapping(self, facts: Mapping[str, object]) -> dict[str, object]:
        """Plain data with its texts masked."""
        return {name: self.text(value) if isinstance(value, str) else value for name, value in facts.items()}

    def texts(self, texts: Sequence[str]) -> list[str]:
        """Sentences masked."""
        return [self.text(each) for each in texts]

    def finding(self, finding: Finding) -> Finding:
        """A finding with its sentence and its condition masked."""
        return replace(
            finding,
            message=self.text(finding.message),
            where=None if finding.where is None else self.text(finding.where),
            about=None if finding.about is None else self.text(finding.about),
        )


def _told(mask: _Mask, told: Told) -> Told:
    evidence = None if told.evidence is None else mask.table(told.evidence)
    return replace(told, finding=mask.finding(told.finding), evidence=evidence)


def _section(mask: _Mask, section: Section) -> Section:
    error = None if section.error is None else mask.text(section.error)
    return replace(
        section, error=error, result=None if section.result is None else _result(mask, section.result)
    )


def _result(mask: _Mask, result: Result) -> Result:
    return replace(
        result,
        summary=mask.texts(result.summary),
        tables={name: mask.table(table) for name, table in result.tables.items()},
        findings=[mask.finding(each) for each in result.findings],
        notes=mask.texts(result.notes),
        incomplete=mask.texts(result.incomplete),
        target=mask.mapping(result.target),
    )


def _mapped(series: pl.Series, change: Callable[[Any], str | None]) -> pl.Series:
    """Each value changed, within lists too; what is absent stays so."""
    if series.dtype.is_nested():
        lists = [
            None if each is None else [None if value is None else change(value) for value in each]
            for each in series.to_list()
        ]
        return pl.Series(series.name, lists, dtype=pl.List(pl.String))
    known = {value: change(value) for value in series.unique(maintain_order=True).drop_nulls().to_list()}
    values = [None if value is None else known[value] for value in series.to_list()]
    return pl.Series(series.name, values, dtype=pl.String)


def _stands(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (
        after.isalnum() and text[end - 1].isalnum()
    )


def _replaced(text: str, name: str, pseudonym: str) -> str:
    """A name replaced wherever it stands for itself, as in ``name_probe+0x12/0x80 [name]``."""
    out, at = [], 0
    while at < len(text):
        found = text.find(name, at)
        if found < 0:
            break
        end = found + len(name)
        out += [text[at:found], pseudonym if _stands(text, found, end) else name]
        at = end
    return "".join([*out, text[at:]])
