"""``/sys/kernel/debug/page_pinner/*`` of Android's page pinner (mm/page_pinner.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.layout import find_object
from mmdump.kernel.rodata import read_only_data
from mmdump.kernel.stackdepot import StackStatus
from mmdump.kernelfile import KernelFile
from mmdump.target.faults import fault_words
from mmdump_page_owner.frames import Frames
from mmdump_page_pinner.android import FILE, is_on, why_no_android_pinner
from mmdump_page_pinner.marks import GET, PAGE_PINNER, why_no_marks
from mmdump_page_pinner.rings import FAILURES, LONGTERM, read_ring, ring_variable, tracks_failures

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange
    from mmdump.scan import Ranges
    from mmdump_page_pinner.rings import Ring

__all__ = ["FILES"]

_DIRECTORY = "/sys/kernel/debug/page_pinner/"
#: Records whose text is made before any of it is passed on.
_BATCH = 1 << 10

#: First lines of a record: how long it took, or when it was; newest first.
_ELAPSED = ("At least, pinned for %llu us\n", "At least, pinned for %lld us\n", "Page pinned for %lld us\n")
_AT = ("%s [%5lu.%06lu]\n", "Page pinned ts [%5lu.%06lu]\n")
#: The first line up to some point in 2021, for all records.
_EARLY = "Page pinned ts %lld us count %d\n"
#: The second line, of what struct page said; and before that was recorded.
_CAPTURED = "PFN 0x%lx Block %lu count %d mapcount %d mapping %pS Flags %#lx(%pGp)\n"
_EARLY_PFN = "PFN %lu Block %lu type %s Flags %#lx(%pGp)\n"
_WORDS = {"FREE": "Freed at", "FAIL_DETECTED": "Failure detected at"}


@dataclass(frozen=True)
class _Forms:
    """What this kernel prints: its format strings are in its read-only data.

    :param elapsed: The first line of puts and long pins.
    :param at: The first line of others.
    :param pfn: The second line.
    :param with_word: Whether ``%pGp`` prints the word itself too (5.16).
    """

    elapsed: str
    at: str
    pfn: str
    with_word: bool


def _read_forms(kernel: Kernel) -> _Forms:
    """Find the format strings.

    :raises UnsupportedError: They are not there, or not as mmdump knows them.
    """
    data = read_only_data(kernel)

    def first(*forms: str) -> str | None:
        return next((form for form in forms if b"\0" + form.encode() + b"\0" in data), None)

    elapsed, at = first(*_ELAPSED, _EARLY), first(*_AT, _EARLY)
    pfn = first(_CAPTURED, _EARLY_PFN)
    if elapsed is None or at is None or pfn is None:
        raise UnsupportedError("the text of this kernel's page pinner is not in the dump")
    # Others that print the flags of a page left %#lx out when %pGp began to print the word.
    return _Forms(elapsed, at, pfn, b"lags: %pGp" in data or b"lags %pGp" in data)


class _Printer:
    """``print_page_pinner()``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._forms = _read_forms(kernel)
        self._frames = Frames(kernel)

    def record(self, ring: Ring, row: int, *, elapsed: bool) -> str:
        """One record of a ring."""
        record = ring.slots[row]
        usec, forms = int(record["usec"]), self._forms
        form = forms.elapsed if elapsed else forms.at
        if form == _EARLY:
            text = f"Page pinned ts {_signed(usec)} us count 0\n"
        elif elapsed:
            text = form.replace("%llu", f"{usec & _U64}").replace("%lld", f"{_signed(usec)}")
        else:
            state = ring.states.get(int(record["state"]), "") if "state" in ring.columns else ""
            seconds, micros = divmod(usec & _U64, 1_000_000)
            # Whatever else the state is, it is printed as a failure.
            words = _WORDS.get(state, _WORDS["FAIL_DETECTED"])
            text = form.replace("%s", words).replace("%5lu.%06lu", f"{seconds:5d}.{micros:06d}")
        return text + self._page(ring, record) + self.stack(int(record["handle"]))

    def _page(self, ring: Ring, record: np.void) -> str:
        pfn = int(record["pfn"])
        flags = self._flags(int(record["flags"]))
        block = pfn >> self._kernel.pageblocks.order
        if self._forms.pfn == _CAPTURED and "mapping" in ring.columns:
            mapping = self._kernel.symbols.text(int(record["mapping"]))
            return (
                f"PFN {pfn:#x} Block {block} count {int(record['count'])} "
                f"mapcount {int(record['mapcount'])} mapping {mapping} {flags}\n"
            )
        number = int(record["migratetype"]) if "migratetype" in ring.columns else -1
        return f"PFN {pfn} Block {block} type {self._type(number)} {flags}\n"

    def page(self, pages: PageRange, row: int, usec: int, handle: int, count: int) -> str:
        """One page's own record, as ``read_page_pinner()`` printed it."""
        pfn = pages.start + row
        block = pfn >> self._kernel.pageblocks.order
        number = int(pages.migratetype_of(np.array([row]))[0])
        return (
            f"Page pinned ts {_signed(usec)} us count {count}\n"
            f"PFN {pfn} Block {block} type {self._type(number)} {self._flags(int(pages.flags[row]))}\n"
            + self.stack(handle)
        )

    def _type(self, number: int) -> str:
        names = self._kernel.pageblocks.names
        return names[number] if 0 <= number < len(names) else "Unknown"

    def _flags(self, word: int) -> str:
        names = self._kernel.page_flag_text
        return f"Flags {word:#x}({names.text(word) if self._forms.with_word else names.inside(word)})"

    def stack(self, handle: int) -> str:
        """``stack_trace_snprint()``, and the empty line."""
        depot = self._kernel.stack_depot
        stack = depot.stack(handle) if depot is not None else None
        if stack is None or stack.status is not StackStatus.OK:
            return "\n"
        return "".join(f" {self._frames.plain(address)}\n" for address in stack.frames) + "\n"


_U64 = (1 << 64) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _ring_file(name: str) -> Callable[[Kernel, Ranges], Iterator[bytes]]:
    def read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:  # noqa: ARG001 - no page is looked at
        """``read_buffer()``, ``read_alloc_contig_failed()``, ``read_longterm_page_pinner()``.

        :raises IncompleteError: After all that could be printed: the next record is not in the dump.
        """
        ring = read_ring(kernel, name)
        if ring is None:
            raise UnsupportedError("this kernel has no such ring")
        printer = _Printer(kernel)
        # The newest first, up to the first without a call chain, whatever it is.
        ends = np.flatnonzero((ring.slots["handle"] == 0) | ~ring.readable)
        end = int(ends[0]) if len(ends) else ring.size
        elapsed = ring.elapsed(ring.slots)
        for start in range(0, end, _BATCH):
            rows = range(start, min(start + _BATCH, end))
            text = "".join(printer.record(ring, row, elapsed=bool(elapsed[row])) for row in rows)
            yield text.encode("latin-1", "replace")
        if end < ring.size and not ring.readable[end]:
            raise IncompleteError(f"{ring.variable} is not in the dump beyond the newest {end} records")

    return read


def _pinner(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
    """``read_page_pinner()``: every page that somebody got."""
    printer = _Printer(kernel)
    for pages in ranges:
        if pages.ext is None:
            continue
        rows = np.flatnonzero(pages.ext.has_flag(GET) & ~pages.is_buddy & pages.readable)
        record = pages.ext[PAGE_PINNER.name].rows(rows)
        kept = (record["count"] != 0) & (record["handle"] != 0)
        text = [
            printer.page(pages, row, int(each["ts_usec"]), int(each["handle"]), int(each["count"]))
            for row, each in zip(rows[kept].tolist(), record[kept], strict=True)
        ]
        yield "".join(text).encode("latin-1", "replace")


def _number(name: str) -> Callable[[Kernel, Ranges], Iterator[bytes]]:
    def read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:  # noqa: ARG001
        """``DEFINE_DEBUGFS_ATTRIBUTE()``: one number."""
        found = find_object(kernel.target.prog, name, FILE)
        if found is None:
            raise UnsupportedError(f"this kernel has no {name}")
        try:
            yield b"%d\n" % found.value_()
        except FaultError as error:
            raise IncompleteError(f"{name} could not be read: {fault_words(error)}") from error

    return read


def _tracking(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:  # noqa: ARG001
    yield b"%d\n" % tracks_failures(kernel)


def _why_no_directory(kernel: Kernel) -> str | None:
    """The directory is made late in boot, if the page pinner is on."""
    return why_no_android_pinner(kernel) or why_no_marks(kernel)


def _why_no(variable: str) -> Callable[[Kernel], str | None]:
    def why_not(kernel: Kernel) -> str | None:
        reason = _why_no_directory(kernel)
        if reason is None and find_object(kernel.target.prog, variable, FILE) is None:
            return "the page pinner of this kernel has no such file"
        return reason

    return why_not


def _why_no_ring(name: str, *, one: bool = False) -> Callable[[Kernel], str | None]:
    """:param one: Whether the file is that of the one ring of Android 13 and newer, or of one of two."""

    def why_not(kernel: Kernel) -> str | None:
        reason = _why_no_directory(kernel)
        if reason is not None:
            return reason
        single = find_object(kernel.target.prog, "pp_buffer", FILE) is not None
        if ring_variable(kernel, name) is None or single != one:
            return "the page pinner of this kernel has no such file"
        if name == FAILURES and not tracks_failures(kernel):
            return "failure_tracking is off: who reads this file gets an error"
        return None

    return why_not


def _why_no_pinner(kernel: Kernel) -> str | None:
    reason = _why_no_directory(kernel)
    if reason is not None:
        return reason
    try:
        kernel.target.prog.function("read_page_pinner")
    except LookupError:
        return "the page pinner of this kernel does not list pages (those of early 2021 did)"
    return None if is_on(kernel) else "page_ext's layout in this dump is garbage"


FILES = (
    KernelFile(
        _DIRECTORY + "buffer",
        "what happened to pages that could not be migrated (Android 13 and newer)",
        _ring_file(FAILURES),
        why_not=_why_no_ring(FAILURES, one=True),
    ),
    KernelFile(
        _DIRECTORY + "alloc_contig_failed",
        "what happened to pages that could not be migrated (Android 12)",
        _ring_file(FAILURES),
        why_not=_why_no_ring(FAILURES),
    ),
    KernelFile(
        _DIRECTORY + "longterm_pinner",
        "pages that were got by get_user_pages() for long (Android 12)",
        _ring_file(LONGTERM),
        why_not=_why_no_ring(LONGTERM),
    ),
    KernelFile(
        _DIRECTORY + "pinner",
        "pages that were got by get_user_pages() (early 2021)",
        _pinner,
        ext=True,
        why_not=_why_no_pinner,
    ),
    KernelFile(
        _DIRECTORY + "threshold",
        "how long a page must be got to be listed, in microseconds (Android 12)",
        _number("threshold_usec"),
        why_not=_why_no("threshold_usec"),
    ),
    KernelFile(
        _DIRECTORY + "buffer_size",
        "records there is room for (Android 13 and newer)",
        _number("pp_buf_size"),
        why_not=_why_no("pp_buf_size"),
    ),
    KernelFile(
        _DIRECTORY + "failure_tracking",
        "whether pages that cannot be migrated are recorded (Android)",
        _tracking,
        why_not=_why_no("failure_tracking"),
    ),
)
