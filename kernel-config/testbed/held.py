"""What `mmdump pinned` must find in a run: the pages that the workload holds, and no others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .truth import TruthLine

__all__ = ["Expected", "Verdict", "answer", "expected", "failures_in_trace", "judge", "pinned_rows"]


@dataclass(frozen=True)
class Expected:
    """PFNs by what the workload did with them.

    :param held: Held by a pipe, without a pin.
    :param released: Were in the pipe, and left it.
    :param pinned: Pinned with FOLL_PIN: the page, or the head of its large folio.
    :param waiting: In I/O, in a ring or in a queue, with a pin or without one; heads of large folios.
    """

    held: frozenset[int] = frozenset()
    released: frozenset[int] = frozenset()
    pinned: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()


@dataclass
class Verdict:
    """What is wrong with an answer: PFNs, or words."""

    checked: int = 0
    wrong: list[str] = field(default_factory=list)


def expected(lines: list[TruthLine]) -> Expected:
    """What the workload's truth file says of pinned and held pages."""
    piped: list[int] = []
    drained = 0
    pinned: set[int] = set()
    waiting: set[int] = set()
    for line in lines:
        if line.kind == "splice" and "pinned pfn" in line.text:
            piped.append(int(line.values["pfn"], 0))
        elif line.kind == "drained":
            drained = int(line.text.split()[1])
        elif line.kind in {"longpin", "iouring"} and "pfn" in line.values:
            pinned.add(int(line.values["pfn"], 0))
        elif line.kind == "longpinhuge" and "head pfn" in line.values:
            pinned.add(int(line.values["head pfn"], 0))
        elif line.kind in {"dio", "aioring", "loop", "tcp", "unix", "tee"} and "pfn" in line.values:
            waiting.add(int(line.values.get("head pfn", line.values["pfn"]), 0))
    return Expected(
        frozenset(piped[drained:]), frozenset(piped[:drained]), frozenset(pinned), frozenset(waiting)
    )


def answer(*words: str | Path) -> str:
    """What an mmdump command prints.

    :raises RuntimeError: It failed; the text is what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mmdump", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"mmdump gave {done.returncode}")
    return done.stdout


def pinned_rows(dump: Path, vmlinux: Path) -> list[dict[str, Any]]:
    """The rows of `mmdump pinned` on a dump.

    :raises RuntimeError: It failed; the text is what it said.
    """
    found = json.loads(answer("pinned", dump, "-s", vmlinux, "-f", "json"))
    rows: list[dict[str, Any]] = found["tables"]["pages"]["rows"]
    return rows


def failures_in_trace(trace: str) -> set[int]:
    """PFNs at which a contiguous allocation failed, by the page pinner's events."""
    return {int(pfn, 16) for pfn in re.findall(r"page_pinner_failure: pfn=(?:0x)?([0-9a-f]+)", trace)}


def judge(rows: list[dict[str, Any]], want: Expected, failures: set[int]) -> Verdict:
    """Hold the rows against what the workload and the page pinner's events say."""
    verdict = Verdict(len(rows))
    held = {row["pfn"]: row for row in rows if row["state"] == "held"}
    marked = {row["pfn"] for row in rows if "page_pinner" in row["evidence"]}
    for pfn in sorted(want.held - held.keys()):
        verdict.wrong.append(f"{pfn:#x} is in the pipe and not held")
    for pfn in sorted(want.released & held.keys()):
        verdict.wrong.append(f"{pfn:#x} left the pipe and is held")
    for pfn in sorted(want.pinned):
        if pfn not in held or "foll_pin" not in held[pfn]["evidence"]:
            verdict.wrong.append(f"{pfn:#x} is pinned and has no foll_pin")
    for pfn in sorted(want.waiting - held.keys()):
        verdict.wrong.append(f"{pfn:#x} is in I/O, in a ring or in a queue, and not held")
    for pfn in sorted(held.keys() - want.held - want.pinned - want.waiting):
        verdict.wrong.append(
            f"{pfn:#x} is held: {held[pfn]['evidence']}, {held[pfn]['kind']}, nobody said so"
        )
    # A page that made an allocation fail keeps its mark until it is freed: those still in use have it.
    still = failures & (want.held | want.released)
    for pfn in sorted(still - marked):
        verdict.wrong.append(f"{pfn:#x} has a page_pinner_failure in the trace and no mark")
    for pfn in sorted(marked - failures) if failures else ():
        verdict.wrong.append(f"{pfn:#x} is marked, and no event says so")
    return verdict
