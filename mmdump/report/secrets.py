"""The names in a dump that are nobody else's business."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdump.document import Report
from mmdump.kernel.running import host_names, module_names, task_names
from mmdump.result import Column, Kind, Table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins

__all__ = ["find_secrets", "secret_of", "secrets_in"]

#: Sorts of secrets by what columns are called that do not say themselves what they hold.
_NAMES = (
    ("comm", re.compile(r"(?:.*_)?(?:comms?|tasks?|process(?:es)?)")),
    ("cgroup", re.compile(r"(?:.*_)?(?:memcgs?|cgroups?)")),
    ("path", re.compile(r"(?:.*_)?(?:paths?|file_?names?|files?)")),
    ("host", re.compile(r"(?:.*_)?(?:host_?names?|hosts?|nodename)")),
    ("module", re.compile(r"(?:.*_)?(?:modules?)")),
)
#: How the kernel's log names tasks, also such as have exited since.
_LOGGED = re.compile(r"(?:\bin process |\bComm: |\bcomm[:=] ?)(\S+)")


def find_secrets(kernel: Kernel, plugins: Plugins) -> dict[str, str]:
    """What the kernel knows of names (and where the dump lies), each with its sort."""
    prog, target = kernel.target.prog, kernel.target
    found: dict[str, str] = {}
    paths = [None if target.path is None else os.fspath(target.path)]
    if target.debug_info is not None:
        paths.append(os.fspath(target.debug_info.path))
    # A plugin from a file names it.
    paths += [each.source for each in plugins.found if os.sep in each.source]
    for path in paths:
        if path is not None:
            for each in (path, str(Path(path).absolute()), str(Path(path).resolve())):
                found.setdefault(each, "path")
    for sort, names in (
        ("host", host_names(prog)),
        ("comm", task_names(prog)),
        ("module", module_names(prog)),
    ):
        for name in names:
            found.setdefault(name, sort)
    return found


def secrets_in(report: Report) -> dict[str, str]:
    """The secrets in the columns of a report, and in what the kernel printed, each with its sort."""
    found: dict[str, str] = {}
    for table in _tables(report):
        for column in table.schema.columns:
            sort = secret_of(column)
            texts = _texts(table, column)
            if sort is not None:
                for name in texts:
                    for part in _parts(name, sort):
                        found.setdefault(part, sort)
            elif column.kind is Kind.TEXT:
                for text in texts:
                    for name in _LOGGED.findall(text):
                        found.setdefault(name, "comm")
    return found


def secret_of(column: Column) -> str | None:
    """The sort of secrets that a column holds; None if it holds none."""
    if column.private:
        return column.private
    if column.kind is not Kind.TEXT:
        return None
    name = column.name.lower()
    return next((sort for sort, pattern in _NAMES if pattern.fullmatch(name)), None)


def _parts(name: str, sort: str) -> Iterator[str]:
    """A name and what it is made of: a sentence may say only the last part of a cgroup's path."""
    if not name.strip("/ "):
        return
    yield name
    if sort == "cgroup":
        yield from (part for part in name.split("/") if part.strip())


def _tables(report: Report) -> Iterator[Table]:
    for section in report.sections:
        if section.result is not None:
            yield from section.result.tables.values()
    yield from report.provenance
    for told in report.findings:
        if told.evidence is not None:
            yield told.evidence


def _texts(table: Table, column: Column) -> Iterable[str]:
    series = table.frame[column.name]
    if series.dtype.is_nested():
        series = series.explode()
    return [str(each) for each in series.drop_nulls().unique(maintain_order=True)]


def merged(*sources: Mapping[str, str]) -> dict[str, str]:
    """All secrets; of a name with two sorts the first counts."""
    found: dict[str, str] = {}
    for source in sources:
        for name, sort in source.items():
            found.setdefault(name, sort)
    return found
