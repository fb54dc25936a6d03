"""``mmdump info``: what is in this dump, and which analyses can run on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drgn import FaultError

from mmdump.amounts import bytes_text
from mmdump.errors import MmdumpError
from mmdump.kernel.machine import LastWords, Machine, read_last_words, read_machine
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump.scan import why_not
from mmdump.target import PhysStatus
from mmdump.target.faults import error_words, fault_words
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins

__all__ = ["info"]

FACTS = Schema(
    "facts", (Column("what", Kind.TEXT, "a fact's name"), Column("value", Kind.TEXT, "the fact")), "Dump"
)
COVERAGE = Schema(
    "memory_in_dump",
    (
        Column("pages", Kind.TEXT, "what became of the pages"),
        Column("count", Kind.COUNT, "how many pages"),
        Column("bytes", Kind.BYTES, "the same in bytes"),
    ),
    "Memory in the dump",
)
ZONES = Schema(
    "zones",
    (
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("start_pfn", Kind.PFN, "first page it spans"),
        Column("spanned", Kind.COUNT, "pages it spans, holes included"),
        Column("present", Kind.BYTES, "memory that exists"),
    ),
    "Zones",
)
CLIENTS = Schema(
    "page_ext",
    (
        Column("client", Kind.TEXT, "a user of page_ext"),
        Column(
            "state",
            Kind.TEXT,
            "on, off, unknown, or not built in",
            values=("on", "off", "unknown", "not built in"),
        ),
        Column("per_page", Kind.BYTES, "its data for each page"),
        Column("cost", Kind.BYTES, "its data for all pages"),
    ),
    "page_ext",
)
VMCOREINFO = Schema(
    "vmcoreinfo",
    (
        Column("key", Kind.TEXT, "an entry of VMCOREINFO"),
        Column("value", Kind.TEXT, "what the kernel says of itself there"),
    ),
    "VMCOREINFO",
)
ANALYSES = Schema(
    "analyses",
    (
        Column("analysis", Kind.TEXT, "command"),
        Column("runs", Kind.BOOL, "whether it can run on this dump"),
        Column("why_not", Kind.TEXT, "why it cannot"),
    ),
    "Analyses",
)

_IN_DUMP = {
    PhysStatus.PRESENT: "in the dump",
    PhysStatus.ZERO_FILLED: "left out, read as zeros",
    PhysStatus.EXCLUDED: "filtered out",
    PhysStatus.TRUNCATED: "cut off with the end of the file",
}


#: What a column of bytes holds.
_MOST_BYTES = (1 << 63) - 1
#: Of a client of page_ext; more is garbage.
_MOST_PER_PAGE = 1 << 16


def info(kernel: Kernel, plugins: Plugins) -> Result:
    """Describe a target. What cannot be found out is said, and does not keep the rest from being shown."""
    incomplete: list[str] = []

    def known(what: str, find: Callable[[], Any], default: Any) -> Any:
        try:
            return find()
        except MmdumpError as error:
            incomplete.append(error.message if what in error.message else f"{what}: {error.message}")
            return default

    target = kernel.target
    if target.no_debug_info is not None:
        return _bare(kernel, plugins, target.no_debug_info)
    memmap = known("page array", lambda: kernel.memmap, None)
    pages = memmap.pages if memmap is not None else 0
    if memmap is not None and not pages:
        incomplete.append("page array: no page of this kernel's memory is known")
    if memmap is not None and memmap.unreadable_sections:
        incomplete.append(
            f"page array: {memmap.unreadable_sections} parts of the memory section table could not be read"
        )
    facts = [*_facts(kernel, pages), *_machine_facts(kernel, read_machine(kernel))]
    words, unreadable = _last_words(kernel)
    facts += [(what, text) for what, text in (("panic", words.panic), ("last bug", words.bug)) if text]
    if unreadable is not None:
        incomplete.append(unreadable)
    tables = [
        _table(FACTS, facts),
        _table(COVERAGE, _coverage(kernel)),
        _table(
            ZONES,
            [
                (zone.node, zone.name, zone.start_pfn, zone.spanned, zone.present * target.page_size)
                for zone in known("zones", lambda: kernel.zones, [])
            ],
        ),
        _table(CLIENTS, known("page_ext", lambda: _clients(kernel, pages), [])),
        _table(ANALYSES, _analyses(kernel, plugins)),
    ]
    lost = known("zones", lambda: kernel.zone_garbage, 0)
    if lost:
        incomplete.append(f"zones: {lost} nodes or zones are garbage, or could not be read")
    if known("page_ext", lambda: kernel.page_ext.garbage, False):
        incomplete.append("page_ext: its layout in this dump is garbage")
    return _result(kernel, tables, list(dict.fromkeys(incomplete)))


def _bare(kernel: Kernel, plugins: Plugins, reason: str) -> Result:
    """What the dump says itself, without debug info."""
    tables = [
        _table(FACTS, _facts(kernel, 0)),
        _table(COVERAGE, _coverage(kernel)),
        _table(ANALYSES, [(name, False, "there is no debug info") for name in plugins.analyses()]),
        _table(VMCOREINFO, sorted(kernel.target.vmcoreinfo.items())),
    ]
    result = _result(kernel, tables, ["no debug info: no analysis can run; give it with -s VMLINUX"])
    # What to do about it comes before all that there is to see.
    return replace(result, summary=[*result.summary, reason])


def _result(kernel: Kernel, tables: Sequence[Table], incomplete: Sequence[str]) -> Result:
    target = kernel.target
    findings = []
    if target.dump is not None and target.dump.truncated:
        findings.append(Finding("truncated", Severity.WARNING, target.dump.truncated))
    return Result(
        "info",
        summary=[target.describe()],
        tables={table.name: table for table in tables},
        primary=FACTS.name,
        text_tables=[table.name for table in tables if len(table.frame)],
        findings=findings,
        incomplete=incomplete,
        target=summarise(target),
    )


def _table(schema: Schema, rows: Sequence[tuple[Any, ...]]) -> Table:
    return Table.of_rows(schema, [dict(zip(schema.names, row, strict=True)) for row in rows])


def _facts(kernel: Kernel, pages: int) -> list[tuple[str, str]]:
    target = kernel.target
    found = target.debug_info
    facts = [
        ("kernel", target.release),
        ("build ID", target.build_id),
        ("architecture", target.architecture),
        ("page size", f"{target.page_size} bytes"),
        ("pages", f"{pages}" if pages else None),
        ("file", None if target.path is None else str(target.path)),
        ("format", "the live kernel" if target.live else target.dump and target.dump.describe()),
        ("written by", target.dump and target.dump.writer),
        (
            "crash time",
            None if target.crash_time is None else _time(target.crash_time),
        ),
        ("debug info", found and f"{found.path} ({found.source})"),
        ("its build ID", found.build_id if found and found.build_id != target.build_id else None),
    ]
    return [(what, str(value)) for what, value in facts if value]


def _machine_facts(kernel: Kernel, machine: Machine) -> list[tuple[str, str]]:
    page_size, clock = kernel.target.page_size, machine.wall_clock
    cpus = None if machine.online is None else f"{machine.online} online"
    if cpus is not None and machine.possible is not None:
        cpus += f" of {machine.possible} possible"
    facts = [
        # What nobody named is "(none)".
        ("node", machine.node),
        ("machine", machine.hardware),
        ("build", machine.version),
        ("CPUs", cpus),
        ("memory", None if machine.managed is None else f"{bytes_text(machine.managed * page_size)} managed"),
        ("uptime", None if machine.uptime is None else _duration(machine.uptime // 10**9)),
        # The crash kernel's exact word, where there is one, stands above.
        ("time of dump", None if clock is None or kernel.target.crash_time is not None else _time(clock)),
    ]
    return [(what, value) for what, value in facts if value]


def _last_words(kernel: Kernel) -> tuple[LastWords, str | None]:
    """What the log says of a crash, and what kept it from being read."""
    try:
        words = read_last_words(kernel.target)
        return words, "parts of the kernel's log are not in the dump" if words.lost else None
    except FaultError as error:
        return LastWords(), f"the kernel's log could not be read: {fault_words(error)}"
    except (MmdumpError, LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
        return LastWords(), f"the kernel's log could not be made out: {error}"


def _duration(seconds: int) -> str:
    """As ``uptime`` says it: ``3 days, 04:05:06``."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return clock if not days else f"{days} day{'s' if days > 1 else ''}, {clock}"


def _time(seconds: int) -> str:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds since the epoch"


def _coverage(kernel: Kernel) -> list[tuple[str, int, int]]:
    dump = kernel.target.dump
    if dump is None:
        return []
    counts = dump.coverage.counts()
    return [
        # Segments of garbage may be as large as the address space.
        (words, counts[status], min(counts[status] * dump.coverage.page_size, _MOST_BYTES))
        for status, words in _IN_DUMP.items()
        if counts.get(status) or status == PhysStatus.PRESENT
    ]


def _clients(kernel: Kernel, pages: int) -> list[tuple[str, str, int | None, int | None]]:
    layout = kernel.page_ext
    if not layout.built:
        return [("page_ext", "not built in", None, None)]
    rows: list[tuple[str, str, int | None, int | None]] = []
    for name, state in sorted(layout.clients.items()):
        if not state.built:
            continue
        words = "unknown" if state.unreadable else "on" if state.enabled else "off"
        # The size may be garbage.
        known = not state.unreadable and state.size <= _MOST_PER_PAGE
        cost = state.size * pages if state.enabled else 0
        rows.append((name, words, state.size if known else None, cost if known else None))
    rows.append(("all, with flags", "on" if layout.stride else "off", layout.stride, layout.stride * pages))
    return rows


def _analyses(kernel: Kernel, plugins: Plugins) -> list[tuple[str, bool, str | None]]:
    rows = []
    for name, analysis in plugins.analyses().items():
        try:
            reason = why_not(kernel, analysis())
        except MmdumpError as error:
            reason = error.message
        except Exception as error:  # whoever wrote it; the others can be told of all the same
            reason = f"failed: {error_words(error)}"
            if (plugin := plugins.of(analysis)) is not None:
                plugins.failed_in(plugin, error)
        rows.append((name, reason is None, reason))
    return rows
