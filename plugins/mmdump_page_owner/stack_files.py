"""/sys/kernel/debug/page_owner_stacks/*, and the depot's own statistics: made of stacks, not of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.depot_state import FILE as DEPOT_FILE
from mmdump.kernel.layout import c_string, find_object, find_type
from mmdump.kernel.rodata import read_only_data
from mmdump.kernelfile import KernelFile
from mmdump_page_owner.frames import Frames
from mmdump_page_owner.record import why_no_owner
from mmdump_page_owner.stack_list import FILE, StackList, read_stack_list

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.scan import Ranges

__all__ = ["STACK_FILES"]

_DIRECTORY = "/sys/kernel/debug/page_owner_stacks/"
#: Records whose text is made before any of it is passed on.
_BATCH = 1 << 12


@dataclass(frozen=True)
class _Flags:
    """What a file shows of each stack: ``STACK_PRINT_FLAG_*``."""

    stack: bool
    pages: bool
    handle: bool


def _why_no_counts(kernel: Kernel) -> str | None:
    reason = why_no_owner(kernel)
    if reason is None and find_object(kernel.target.prog, "stack_list", FILE) is None:
        return "page_owner of this kernel does not count the pages of each stack (6.9 and newer do)"
    return reason


def _why_no_handles(kernel: Kernel) -> str | None:
    # 6.19 brought the type together with the files.
    if find_type(kernel.target.prog, "struct stack_print_ctx") is None:
        return _why_no_counts(kernel) or "this kernel does not print stack handles (6.19 and newer do)"
    return _why_no_counts(kernel)


def _threshold(kernel: Kernel) -> int:
    """``count_threshold``: stacks with fewer pages are not shown."""
    for name in ("page_owner_pages_threshold", "pages_threshold"):  # the latter from 7.3 on
        found = find_object(kernel.target.prog, name, FILE)
        if found is not None:
            try:
                return int(found.value_())
            except FaultError:
                break
    return 0


def _read(flags: _Flags, kernel: Kernel) -> Iterator[bytes]:
    """``stack_print()``.

    :raises IncompleteError: After all that could be printed: the list, or a record in it, is broken or lost.
    """
    if flags.pages and b"nr_base_pages: %d\n" not in read_only_data(kernel):
        raise UnsupportedError("the text of this kernel's page_owner_stacks is not in the dump")
    found, records = read_stack_list(kernel), kernel.depot_records
    if found is None or records is None or records.count is None:
        raise UnsupportedError("mmdump does not know the stack records of this kernel")
    rows = records.find(found.records)
    unknown = int(np.count_nonzero((rows < 0) & (found.records != 0)))
    rows = rows[rows >= 0]
    # One reference is no page's.
    pages = records.count[rows] - 1
    if flags.pages:
        shown = (pages >= 1) & (pages >= _threshold(kernel))
        rows, pages = rows[shown], pages[shown]
    starts, frames = records.starts, Frames(kernel)
    for first in range(0, len(rows), _BATCH):
        text = []
        for row, count in zip(rows[first : first + _BATCH].tolist(), pages[first:].tolist(), strict=False):
            if flags.stack:
                addresses = records.frames[starts[row] : starts[row] + records.size[row]].tolist()
                text += [f" {frames.plain(address)}\n" for address in addresses]
            if flags.handle:
                text.append(f"handle: {records.handle[row]}\n")
            if flags.pages:
                text.append(f"nr_base_pages: {count}\n")
            text.append("\n")
        yield "".join(text).encode("latin-1", "replace")
    if found.loop or found.lost or unknown:
        raise IncompleteError(_why_incomplete(found, unknown))


def _why_incomplete(found: StackList, unknown: int) -> str:
    if found.loop:
        return f"page_owner's list of stacks leads back into itself after {len(found.records)}"
    if found.lost:
        return f"only the first {len(found.records)} stacks of page_owner's list could be read"
    return f"{unknown} of {len(found.records)} stacks of page_owner's list are not in the stack depot"


def _file(name: str, summary: str, flags: _Flags, why_not: Callable[[Kernel], str | None]) -> KernelFile:
    def read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:  # noqa: ARG001 - no page is looked at
        return _read(flags, kernel)

    return KernelFile(_DIRECTORY + name, summary, read, why_not=why_not)


def _read_threshold(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:  # noqa: ARG001
    yield str(_threshold(kernel)).encode()


def _why_no_stats(kernel: Kernel) -> str | None:
    if find_object(kernel.target.prog, "counter_names", DEPOT_FILE) is None:
        return "the stack depot of this kernel has no statistics (6.8 and newer have)"
    return None


def _read_stats(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:  # noqa: ARG001
    """``stats_show()``."""
    prog = kernel.target.prog
    try:
        counters, names = (
            prog.object("counters", filename=DEPOT_FILE),
            prog.object("counter_names", filename=DEPOT_FILE),
        )
        length = min(counters.type_.length or 0, names.type_.length or 0, 64)
        text = f"pools: {prog.object('pools_num', filename=DEPOT_FILE).value_()}\n"
        text += "".join(f"{c_string(names[at])}: {counters[at].value_()}\n" for at in range(length))
    except FaultError as error:
        raise IncompleteError("the stack depot's statistics could not be read") from error
    yield text.encode()


STACK_FILES = (
    _file("show_stacks", "stacks, and the pages of each", _Flags(True, True, False), _why_no_counts),
    _file("show_handles", "stack handles, and the pages of each", _Flags(False, True, True), _why_no_handles),
    _file("show_stacks_handles", "stacks and their handles", _Flags(True, False, True), _why_no_handles),
    KernelFile(
        _DIRECTORY + "count_threshold",
        "how many pages a stack must have to be shown",
        _read_threshold,
        why_not=_why_no_counts,
    ),
    KernelFile(
        "/sys/kernel/debug/stackdepot/stats",
        "the stack depot's own statistics",
        _read_stats,
        why_not=_why_no_stats,
    ),
)
