"""Reads the kernel's own files, and what the workload wrote down, into plain data."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One record of /sys/kernel/debug/page_owner (Linux 6.7 and newer)."""

    pfn: int
    order: int
    gfp_mask: int
    gfp_flags: str
    pid: int
    tgid: int
    comm: str
    ts_nsec: int
    migratetype: str
    flags: str
    stack: tuple[str, ...]


_FIRST = re.compile(
    r"Page allocated via order (\d+), mask (0x[0-9a-f]+)\((.*?)\), pid (-?\d+), tgid (-?\d+) \((.*)\), "
    r"ts (\d+) ns$"
)
_SECOND = re.compile(r"PFN (0x[0-9a-f]+) type \w+ Block \d+ type (\w+) Flags 0x[0-9a-f]+\((.*)\)$")


def page_owner(text: str) -> dict[int, Record]:
    """The records by PFN."""
    records = {}
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if len(lines) < 2:
            continue
        first, second = _FIRST.match(lines[0]), _SECOND.match(lines[1])
        assert first, lines[0]
        assert second, lines[1]
        pfn = int(second[1], 16)
        records[pfn] = Record(
            pfn,
            int(first[1]),
            int(first[2], 16),
            first[3],
            int(first[4]),
            int(first[5]),
            first[6],
            int(first[7]),
            second[2],
            second[3],
            tuple(line[1:] for line in lines[2:] if line.startswith(" ")),
        )
    return records


@dataclass(frozen=True)
class Workload:
    """What the workload knew when it stopped: PFNs."""

    in_pipe: frozenset[int]
    drained: frozenset[int]
    gup_test: frozenset[int]
    io_uring_head: int


def workload(text: str) -> Workload:
    """The workload's truth file. The first pages put into the pipe are the first that left it."""
    spliced = [int(pfn, 16) for pfn in re.findall(r"^splice pid=\d+ pinned pfn=(0x[0-9a-f]+)", text, re.M)]
    drained = int(re.search(r"^drained (\d+)", text, re.M)[1])
    return Workload(
        in_pipe=frozenset(spliced[drained:]),
        drained=frozenset(spliced[:drained]),
        gup_test=frozenset(int(pfn, 16) for pfn in re.findall(r"^longpin pfn=(0x[0-9a-f]+)", text, re.M)),
        io_uring_head=int(re.search(r"^longpinhuge .*head pfn=(0x[0-9a-f]+)", text, re.M)[1], 16),
    )
