"""What the hypervisor was told: the memory that free page reporting gave back, by QEMU's own trace events.

QEMU drops what is reported from the guest's memory, a ``ram_block_discard_range`` each, by its own address.
Nothing else makes it do that here: the balloon is never filled.
"""

import array
import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .build import BuiltKernel
from .conformance import Comparison
from .errors import GuestError
from .held import answer

__all__ = [
    "FILE",
    "TOLD",
    "Mapping",
    "compare_told",
    "guest_memory",
    "ranges",
    "read",
    "reported_blocks",
    "said_by_the_kernel",
    "trace_words",
    "write",
]

TOLD = "reported to the hypervisor"
"""How a row of it is called."""

FILE = "hypervisor-was-told.txt"
"""In a run's directory: a line for each report, first PFN and number of pages."""

_EVENT = "ram_block_discard_range"
# 7.2: name@address + size: madvise: 1 fallocate: 0 ret: 0
_LINE = re.compile(rf"{_EVENT} \S+?@(0x[0-9a-f]+) \+ (0x[0-9a-f]+): .*\bret: 0\b")
_FIRST = {"arm64": 1 << 30}
"""Where the guest's memory begins, other than at 0."""
_IN_ONE_PIECE = {"x86_64": 2 << 30}
"""Memory of more than that has a hole in it."""
_UPTODATE, _BUDDY = 1 << 3, 1 << 10
"""KPF_UPTODATE and KPF_BUDDY: the first page of a free block is both when the block was reported."""


@dataclass(frozen=True)
class Mapping:
    """Where QEMU has the guest's memory."""

    address: int
    size: int


def trace_words(log: Path) -> list[str]:
    """Return the words by which QEMU writes its events to a file."""
    return ["-trace", f"enable={_EVENT},file={str(log).replace(',', ',,')}"]


def guest_memory(maps: str, size: int) -> Mapping | None:
    """Return the mapping of that many bytes among those of a process; None where that is not one.

    QEMU leaves a page that nobody may touch behind guest memory, so that its end is a mapping's end.
    """
    found = []
    for line in maps.splitlines():
        span, mode, _, _, _, *name = line.split(maxsplit=5)
        low, high = (int(each, 16) for each in span.split("-"))
        if mode == "rw-p" and not name and high - low >= size:
            found.append(Mapping(high - size, size))
    return found[0] if len(found) == 1 else None


def ranges(log: str, memory: Mapping, kernel: BuiltKernel) -> list[tuple[int, int]]:
    """Return what was reported: first PFN and number of pages of each, in order of time.

    Raises GuestError where QEMU's words are not understood, or are about other memory.
    """
    if memory.size > _IN_ONE_PIECE.get(kernel.arch, memory.size):
        raise GuestError("guest memory has a hole: which page is where is not known.")
    shift = kernel.page_size.bit_length() - 1
    first = _FIRST.get(kernel.arch, 0)
    found = []
    for line in log.splitlines():
        match = _LINE.search(line)
        if match is None:
            if _EVENT in line:
                raise GuestError(f"QEMU says it in a way that is not known: {line[:100]}")
            continue
        offset, size = int(match[1], 16) - memory.address, int(match[2], 16)
        if not 0 <= offset <= memory.size - size:
            raise GuestError(f"QEMU names memory that is not the guest's: {line[:100]}")
        found.append((first + offset >> shift, size >> shift))
    return found


def write(directory: Path, reports: Iterable[tuple[int, int]]) -> None:
    """Write them into a run's directory."""
    text = "".join(f"{pfn:#x} {pages}\n" for pfn, pages in reports)
    (directory / FILE).write_text(text)


def read(directory: Path) -> Sequence[tuple[int, int]] | None:
    """Return them; None where the run has none."""
    path = directory / FILE
    if not path.exists():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    return [(int(pfn, 16), int(pages)) for pfn, pages in lines]


def reported_blocks(dump: Path, vmlinux: Path) -> set[tuple[int, int]]:
    """Return the free blocks that mmdump finds reported: first PFN and number of pages.

    The flag is PG_uptodate's, which free pages never have otherwise. Raises RuntimeError if mmdump fails.
    """
    rows = answer(
        "pages", dump, "-s", vmlinux, "-f", "csv", "--columns", "pfn,buddy_order",
        "--where", "buddy_order IS NOT NULL AND 'uptodate' IN flags",
    )  # fmt: skip
    return {(int(row["pfn"]), 1 << int(row["buddy_order"])) for row in csv.DictReader(io.StringIO(rows))}


def said_by_the_kernel(readings: Sequence[bytes]) -> set[int]:
    """Return the first pages of reported blocks by /proc/kpageflags, those that are so in every reading."""
    found: list[set[int]] = []
    for each in readings:
        flags = array.array("Q", each[: len(each) & ~7])
        found.append({pfn for pfn, word in enumerate(flags) if word & _BUDDY and word & _UPTODATE})
    return set.intersection(*found) if found else set()


def compare_told(run: Path, dump: Path, readings: Sequence[bytes]) -> Comparison:
    """Hold what mmdump finds reported in a dump against what the hypervisor was told.

    Each block must have been told just so: a block that is taken, split or merged is reported no longer. None
    may be missing that the kernel's own flags (/proc/kpageflags, its readings) say is reported. The sum of
    `mmdump reported` is one record more.
    """
    reports = read(run)
    if reports is None:
        return Comparison(TOLD, absent="it is not known what it was told")
    vmlinux = run / "vmlinux"
    try:
        blocks = reported_blocks(dump, vmlinux)
        sums = json.loads(answer("reported", dump, "-s", vmlinux, "-f", "json"))
    except RuntimeError as error:
        return Comparison(TOLD, stable=1, differences=[("mmdump", None, str(error))])
    known, missing = set(reports), said_by_the_kernel(readings) - {pfn for pfn, _ in blocks}
    found = Comparison(TOLD, stable=len(blocks) + len(missing) + 1, equal=len(blocks & known))
    found.differences += [(pfn, None, pages) for pfn, pages in sorted(blocks - known)]
    found.differences += [(pfn, "reported", None) for pfn in sorted(missing)]
    said = sum(row["reported"] for row in sums["tables"]["zones"]["rows"])
    size = sum(pages for _, pages in blocks) * json.loads((run / "run.json").read_text())["page_size"]
    found.equal += said == size
    if said != size:
        found.differences.append(("bytes", size, said))
    return found
