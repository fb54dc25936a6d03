"""Where a report comes from: the dump, the debug info, mmdump and its plugins, and the time it took."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump import __version__
from mmdump.amounts import bytes_text
from mmdump.document import Section
from mmdump.errors import MmdumpError
from mmdump.kernel.machine import LastWords, read_last_words, read_machine
from mmdump.result import Column, Kind, Schema, Table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins

__all__ = ["facts_of", "provenance_of"]

_SOURCE = Schema(
    "source", (Column("what", description="a fact's name"), Column("value", description="the fact")), "Source"
)
_PLUGINS = Schema(
    "plugins",
    (
        Column("plugin", description="its name"),
        Column("state", description="on, off (by the user), or failed"),
        Column("version", description="distribution and version, or file"),
        Column("error", description="what failed"),
    ),
    "Plugins",
)
_SECTIONS = Schema(
    "sections",
    (
        Column("section", description="its name"),
        Column("seconds", description="time it took; columns that several need are charged to the first"),
        Column("pages", Kind.COUNT, "pages that it looked at"),
        Column("read", Kind.COUNT, "of these, those whose struct page could be read"),
        Column("page_ext_read", Kind.COUNT, "and those whose page_ext entry could be"),
        Column("state", description="done, incomplete, or why it is missing"),
    ),
    "Sections",
)
_LIBRARIES = ("drgn", "numpy", "polars")
_PIECE = 1 << 22
#: What reading the log of a damaged dump raises.
_UNREADABLE = (FaultError, MmdumpError, LookupError, AttributeError, TypeError, ValueError, OverflowError)


def facts_of(kernel: Kernel) -> list[tuple[str, str]]:
    """What was running, and how it ended, in a few facts."""
    target, machine = kernel.target, read_machine(kernel)
    words = LastWords()
    with contextlib.suppress(*_UNREADABLE):
        words = read_last_words(target)
    managed = None if machine.managed is None else bytes_text(machine.managed * target.page_size)
    uptime = None if machine.uptime is None else f"{machine.uptime // 10**9:,} s"
    facts = [
        ("panic", words.panic),
        ("last bug", words.bug),
        ("host", None if machine.node == "(none)" else machine.node),
        ("memory", managed),
        ("CPUs", machine.online),
        ("uptime", uptime),
        ("build ID", target.build_id),
        ("dump", target.name),
    ]
    return [(what, str(value)) for what, value in facts if value]


def provenance_of(
    kernel: Kernel,
    plugins: Plugins,
    sections: Sequence[Section],
    *,
    options: Sequence[str],
    seconds: float,
    digest: bool,
) -> list[Table]:
    """The source, the plugins and what became of each section, as tables."""
    rows = [*_dump(kernel, digest), *_debug_info(kernel)]
    rows += [("mmdump", __version__), ("options", " ".join(options) or "none")]
    rows += [(name, _version(name)) for name in _LIBRARIES]
    rows += [("Python", platform.python_version()), ("time taken", f"{seconds:.1f} s")]
    inside = sum(section.seconds for section in sections)
    if seconds > inside:
        rows.append(("of this, reading", f"{seconds - inside:.1f} s"))
    return [
        Table.of_rows(_SOURCE, [{"what": what, "value": value} for what, value in rows if value]),
        Table.of_rows(_SECTIONS, [_section(each) for each in sections]),
        Table.of_rows(
            _PLUGINS,
            [
                {
                    "plugin": each.name,
                    "state": "failed" if each.error else "off" if each.disabled else "on",
                    "version": each.source,
                    "error": each.error,
                }
                for each in plugins.found
            ],
        ),
    ]


def _dump(kernel: Kernel, digest: bool) -> list[tuple[str, str | None]]:
    target = kernel.target
    rows: list[tuple[str, str | None]] = [("dump", target.name)]
    if target.path is not None:
        try:
            rows.append(("size", f"{os.stat(target.path).st_size} bytes"))
            if digest:
                rows.append(("SHA-256", _sha256(os.fspath(target.path))))
        except OSError as error:
            rows.append(("size", f"unknown: {error.strerror or error}"))
    dump = target.dump
    if dump is not None:
        rows += [
            ("format", dump.describe()),
            ("compression", dump.compression),
            ("filter level", None if dump.filter_level is None else str(dump.filter_level)),
            ("written by", dump.writer),
            ("truncated", dump.truncated),
        ]
    rows += [("kernel", target.release), ("build ID", target.build_id)]
    try:
        rows.append(("pages", str(kernel.memmap.pages)))
    except MmdumpError as error:
        rows.append(("pages", f"unknown: {error.message}"))
    return rows


def _debug_info(kernel: Kernel) -> list[tuple[str, str | None]]:
    found = kernel.target.debug_info
    if found is None:
        return [("debug info", "none")]
    rows: list[tuple[str, str | None]] = [("debug info", f"{found.path} ({found.source})")]
    if found.build_id != kernel.target.build_id or found.forced:
        rows.append(("its build ID", found.build_id or "none"))
    if found.forced:
        rows.append(("forced", "the debug info was used although it may not be that of the dump"))
    return rows


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _section(section: Section) -> dict[str, object]:
    result = section.result
    coverage = None if result is None else result.coverage
    state = section.error or ("incomplete" if result is not None and result.incomplete else "done")
    row: dict[str, object] = {"section": section.name, "seconds": f"{section.seconds:.2f}", "state": state}
    if coverage is not None:
        row |= {"pages": coverage.pages, "read": coverage.read}
        if coverage.page_ext is not None:
            row["page_ext_read"] = coverage.page_ext.read
    return row
