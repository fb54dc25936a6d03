"""Conformance: what mmdump reads from a dump, record by record against the kernel's own files.

With two readings, one before the dump and one after, records that are equal in both were so at the moment
of the dump too, and must be equal in it: then 100 % means 100 %. With one reading alone, records may have
changed between it and the dump.
"""

from __future__ import annotations

import array
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FILES", "NO_FILE", "Comparison", "compare", "conformance", "page_owner_records", "table", "words"]

#: By PFN, or by a place or a name in a text.
Records = Mapping[object, object]


@dataclass
class Comparison:
    """How a file made from a dump compares with the kernel's own.

    :param stable: Records that are the same in every reading.
    :param equal: Of these, those that the dump has just so.
    :param moved: Records that changed between the readings, or are in only one.
    :param differences: Stable records that the dump has otherwise: key, the kernel's, the dump's.
    :param absent: Why there is nothing to compare, if there is not.
    """

    file: str
    stable: int = 0
    equal: int = 0
    moved: int = 0
    differences: list[tuple[object, object, object]] = field(default_factory=list)
    absent: str | None = None

    @property
    def perfect(self) -> bool:
        """Whether every stable record is equal in the dump, and there are any."""
        return self.stable > 0 and self.equal == self.stable

    def row(self) -> str:
        """A line of the table."""
        if self.absent is not None:
            return f"{self.file:34} absent: {self.absent}"
        share = 100 * self.equal / self.stable if self.stable else 0.0
        return f"{self.file:34} {self.stable:>9} {self.equal:>9} {share:>9.3f} % {self.moved:>8}"

    def sorts(self) -> Counter[str]:
        """The sorts of differences; for words, by the bits that differ."""
        found: Counter[str] = Counter()
        for _, theirs, ours in self.differences:
            if isinstance(theirs, int) and isinstance(ours, int):
                bits = ",".join(str(bit) for bit in range(64) if (theirs ^ ours) >> bit & 1)
                found[f"bits {bits}"] += 1
            else:
                found["not in the dump" if ours is None else "other text"] += 1
        return found


def page_owner_records(text: bytes) -> Records:
    """Records of page_owner by PFN, each the exact bytes of its lines."""
    records: dict[object, object] = {}
    for block in text.split(b"\n\n"):
        found = re.search(rb"^PFN (0x)?([0-9a-f]+) ", block, re.M)
        if found:
            records[int(found[2], 16 if found[1] else 10)] = block.strip(b"\n")
    return records


def words(data: bytes) -> Records:
    """64-bit words by PFN."""
    return dict(enumerate(array.array("Q", data[: len(data) & ~7])))


def stack_records(text: bytes) -> Records:
    """Records of page_owner_stacks by place, counted from the end: new stacks come to the front.

    A record that moves makes all before it move; the order is compared, too.
    """
    blocks = text.split(b"\n\n")[:-1]
    return {index - len(blocks): block for index, block in enumerate(blocks)}


def named_lines(text: bytes) -> Records:
    """Lines by number."""
    return dict(enumerate(text.split(b"\n")))


def allocinfo_lines(text: bytes) -> Records:
    """Lines by number, but for the one that counts what reading this very file allocates."""
    lines = dict(enumerate(text.split(b"\n")))
    return {number: line for number, line in lines.items() if b" func:allocinfo_start" not in line}


def section_lines(text: bytes) -> Records:
    """Lines of /proc/pagetypeinfo by the section they stand in and their number there."""
    records: dict[object, object] = {}
    section, number = b"", 0
    for line in text.split(b"\n"):
        if not line.startswith(b"Node"):
            section, number = line[:20], 0
        records[section, number] = line
        number += 1
    return records


#: Why a file is not compared that the kernel did not have.
NO_FILE = "this kernel has no such file"

#: File -> how it is taken apart.
FILES: Mapping[str, Callable[[bytes], Records]] = {
    "/sys/kernel/debug/page_owner": page_owner_records,
    "/sys/kernel/debug/page_owner_stacks/show_stacks": stack_records,
    "/sys/kernel/debug/page_owner_stacks/show_handles": stack_records,
    "/sys/kernel/debug/page_owner_stacks/show_stacks_handles": stack_records,
    "/sys/kernel/debug/stackdepot/stats": named_lines,
    "/proc/allocinfo": allocinfo_lines,
    "/proc/kpageflags": words,
    "/proc/kpagecount": words,
    "/proc/kpagecgroup": words,
    "/proc/buddyinfo": named_lines,
    "/proc/pagetypeinfo": section_lines,
    "/sys/kernel/debug/cma/reserved/bitmap": named_lines,
    "/sys/kernel/debug/cma/reserved/used": named_lines,
    "/sys/kernel/debug/cma/reserved/maxchunk": named_lines,
    "/sys/kernel/tracing/trace": named_lines,
    "/sys/kernel/tracing/instances/mm/trace": named_lines,
    "/sys/kernel/tracing/instances/kmem/trace": named_lines,
    "/sys/kernel/tracing/instances/user/trace": named_lines,
}


_FLAGS = re.compile(rb" Flags (0x[0-9a-f]+)\(([^)]*)\)")


def _left_partial_list(theirs: object, ours: object) -> bool:
    """Whether two records of page_owner differ in PG_workingset alone.

    A slab has it while it is on its node's list of partial slabs (mm/slub.c, 6.8): allocating an object and
    freeing it again takes it off and puts it back, between two readings that are the same.
    """
    if not isinstance(theirs, bytes) or not isinstance(ours, bytes):
        return False
    before, now = _FLAGS.search(theirs), _FLAGS.search(ours)
    if before is None or now is None or _FLAGS.sub(b"", theirs) != _FLAGS.sub(b"", ours):
        return False
    names = set(before[2].split(b"|")) ^ set(now[2].split(b"|"))
    return names == {b"workingset"} and (int(before[1], 16) ^ int(now[1], 16)).bit_count() == 1


def compare(file: str, dump: bytes, *readings: bytes) -> Comparison:
    """Hold the dump's version of a file against one or more readings of the kernel's own."""
    split = FILES[file]
    ours, theirs = split(dump), [split(each) for each in readings]
    result = Comparison(file)
    # In the order of the first reading; each key once.
    for key in dict.fromkeys(key for each in theirs for key in each):
        values = [each.get(key) for each in theirs]
        changed = any(value is None or value != values[0] for value in values)
        if changed or _left_partial_list(values[0], ours.get(key)):
            result.moved += 1
            continue
        result.stable += 1
        if ours.get(key) == values[0]:
            result.equal += 1
        else:
            result.differences.append((key, values[0], ours.get(key)))
    return result


def conformance(dump: Path, vmlinux: Path, reading: Callable[[str], list[bytes]]) -> Iterator[Comparison]:
    """Compare every file that can be, for one dump.

    :param reading: The readings of a file, none where the kernel did not have it.
    """
    with tempfile.TemporaryDirectory() as directory:
        for file in FILES:
            readings = reading(file)
            if not readings:
                yield Comparison(file, absent=NO_FILE)
                continue
            out = Path(directory) / "out"
            done = subprocess.run(
                [sys.executable, "-m", "mmdump", "cat", dump, file, "-s", vmlinux, "-o", out, "--force"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"mmdump gave {done.returncode}"]
                yield Comparison(file, absent=said[0])
                continue
            yield compare(file, out.read_bytes(), *readings)


def table(name: str, comparisons: list[Comparison]) -> str:
    """The comparisons as text: a row for each file, and what differs."""
    lines = [f"{name:34} {'stable':>9} {'equal':>9} {'share':>11} {'moved':>8}"]
    for each in comparisons:
        lines.append("  " + each.row())
        lines.extend(f"      {count} x {sort}" for sort, count in each.sorts().most_common(8))
    return "\n".join(lines)
