"""Compares a kernel file made from a dump with the same file read on the machine, record by record.

With two readings, one before the dump and one after, records that are equal in both were so at the moment of
the dump too, and must be equal in it: then 100 % means 100 %. With one reading alone a record may have changed
between it and the dump, so differences are counted and their sorts named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["FILES", "Comparison", "compare", "page_owner_records", "words"]

Records = Mapping[object, object]


@dataclass
class Comparison:
    """How a file of the dump compares with the kernel's own.

    :param stable: Records that are the same in every reading.
    :param equal: Of these, those that the dump has just so.
    :param differences: The others, with what the kernel said and what the dump says.
    :param moved: Records that changed between the readings, or are in only one.
    """

    file: str
    stable: int = 0
    equal: int = 0
    moved: int = 0
    differences: list[tuple[object, object, object]] = field(default_factory=list)

    @property
    def perfect(self) -> bool:
        """Whether every stable record is equal in the dump, and there are any."""
        return self.stable > 0 and self.equal == self.stable

    def row(self) -> str:
        """A line of the conformance table."""
        share = 100 * self.equal / self.stable if self.stable else 0.0
        return f"{self.file:36} {self.stable:>9} {self.equal:>9} {share:>8.3f} % {self.moved:>8}"


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
    return dict(enumerate(np.frombuffer(data[: len(data) & ~7], "<u8").tolist()))


#: File -> how it is taken apart.
FILES: Mapping[str, Callable[[bytes], Records]] = {
    "/sys/kernel/debug/page_owner": page_owner_records,
    "/proc/kpageflags": words,
    "/proc/kpagecount": words,
}


def compare(file: str, dump: bytes, *readings: bytes) -> Comparison:
    """Hold the dump's version of a file against one or more readings of the kernel's own."""
    split = FILES[file]
    ours, theirs = split(dump), [split(each) for each in readings]
    result = Comparison(file)
    keys = set().union(*theirs)
    for key in keys:
        values = [each.get(key) for each in theirs]
        if any(value is None or value != values[0] for value in values):
            result.moved += 1
            continue
        result.stable += 1
        if ours.get(key) == values[0]:
            result.equal += 1
        else:
            result.differences.append((key, values[0], ours.get(key)))
    return result


def sorts(comparison: Comparison) -> Counter[str]:
    """The sorts of differences, for words by the bits that differ."""
    found: Counter[str] = Counter()
    for _, theirs, ours in comparison.differences:
        if isinstance(theirs, int) and isinstance(ours, int):
            found["bits " + ",".join(str(bit) for bit in range(64) if (theirs ^ ours) >> bit & 1)] += 1
        else:
            found["absent" if ours is None else "other text"] += 1
    return found


def read_maybe_compressed(path: Path) -> bytes:
    """A file, decompressed if its name says that it is."""
    if path.suffix == ".zst":
        import zstandard

        with zstandard.open(path, "rb") as file:
            return file.read()
    return path.read_bytes()
