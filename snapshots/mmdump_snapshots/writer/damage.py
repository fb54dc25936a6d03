"""Damage to dumps, repeatable by its seed: what disks, copies and the crashes themselves do to them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdump_snapshots.writer.memory import PhysicalMemory

__all__ = ["Change", "Damage", "Ranges", "truncate"]

#: [start, end) by name: parts of a file, or physical addresses of structures.
Ranges = Mapping[str, Sequence[tuple[int, int]]]

#: The longest stretch that is overwritten at once.
LONGEST = 64 << 10
POINTER = 8


@dataclass(frozen=True)
class Change:
    """One thing that was done.

    :param what: ``"flip"``, ``"ones"``, ``"zeros"``, ``"random"``, ``"copy"``, ``"self"``, ``"pointer"``
        or ``"truncate"``.
    :param where: The name of the range it was done to.
    :param start: File offset or physical address of the first byte changed; of a truncation the new size.
    :param end: One more than that of the last.
    """

    what: str
    where: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.what} of {self.where} at {self.start:#x}, {self.end - self.start} bytes"


def truncate(path: Path, size: int) -> None:
    """Cut a file off."""
    os.truncate(path, min(size, path.stat().st_size))


class Damage:
    """Damages files and memories. The same seed does the same to the same.

    :param seed: Of the random numbers; nothing else is random.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret

    def file(
        self, path: Path, parts: Ranges | None = None, *, changes: int = 3, cut: float = 0.2
    ) -> list[Change]:
        """Damage a dump file in place.

        :param parts: What to damage, as the container's writer returned it (a part may be picked out of it);
            the whole file by default.
        :param changes: How many places are overwritten.
        :param cut: The probability that the file is cut off, too.
        """
        size = path.stat().st_size
        parts = parts or {"file": ((0, size),)}
        done = []
        with path.open("r+b", buffering=0) as file:

            def read(start: int, count: int) -> bytes:
                file.seek(start)
                return file.read(count)

            def write(start: int, data: bytes) -> None:
                file.seek(start)
                file.write(data)

            for _ in range(changes):
                where, start, end = self._range(parts)
                kind = self._rng.choice(("flip", "ones", "zeros", "random", "copy"))
                done.append(self._overwrite(kind, where, start, min(end, size), read, write))
        if self._rng.random() < cut:
            # As often within the first megabyte, where the headers are, as anywhere.
            kept = self._rng.randrange(self._rng.choice((min(size, 1 << 20), size)) + 1)
            truncate(path, kept)
            done.append(Change("truncate", "file", kept, size))
        return done

    def memory(
        self,
        memory: PhysicalMemory,
        targets: Ranges,
        *,
        address: Callable[[int], int],
        changes: int = 3,
    ) -> list[Change]:
        """Damage what is in a memory, before it is written or while it is looked at.

        :param targets: Physical ranges by what is in them; every name is as likely as the others.
        :param address: The virtual address of a physical one, for words that point at themselves.
        """
        done = []
        for _ in range(changes):
            where, start, end = self._range(targets)
            kind = self._rng.choice(("flip", "ones", "zeros", "random", "copy", "self", "pointer"))
            if kind in {"self", "pointer"} and end - start >= 2 * POINTER:
                done.append(self._pointers(kind, where, start, end, memory, address))
            else:
                kind = kind if kind not in {"self", "pointer"} else "flip"
                done.append(self._overwrite(kind, where, start, end, memory.read, memory.write))
        return done

    def _range(self, ranges: Ranges) -> tuple[str, int, int]:
        """A range that is not empty, of a name drawn first."""
        names = [name for name, parts in ranges.items() if any(start < end for start, end in parts)]
        if not names:
            raise ValueError("there is nothing to damage")
        name = self._rng.choice(sorted(names))
        start, end = self._rng.choice([part for part in ranges[name] if part[0] < part[1]])
        return name, start, end

    def _overwrite(
        self,
        kind: str,
        where: str,
        start: int,
        end: int,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
    ) -> Change:
        # Short stretches as often as long ones.
        longest = max(1, min(LONGEST, end - start))
        size = min(longest, 1 << self._rng.randrange(longest.bit_length()))
        position = self._rng.randrange(start, max(start + 1, end - size + 1))
        data = bytearray(read(position, size))
        if not data:
            return Change("nothing", where, position, position)
        if kind == "flip":
            for _ in range(self._rng.randint(1, 8)):
                data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        elif kind == "random":
            data[:] = self._rng.randbytes(len(data))
        elif kind == "copy":
            other = self._rng.randrange(start, max(start + 1, end - size + 1))
            data[:] = read(other, len(data)).ljust(len(data), b"\0")
        else:
            data[:] = (b"\xff" if kind == "ones" else b"\0") * len(data)
        write(position, bytes(data))
        return Change(kind, where, position, position + len(data))

    def _pointers(
        self,
        kind: str,
        where: str,
        start: int,
        end: int,
        memory: PhysicalMemory,
        address: Callable[[int], int],
    ) -> Change:
        """Make two words an empty list's head, or a pointer to somewhere else."""
        first = -(-start // POINTER) * POINTER
        slots = max(1, (end - first) // POINTER - 1)
        position = first + POINTER * self._rng.randrange(slots)
        if kind == "self":
            data = address(position).to_bytes(POINTER, "little") * 2
        else:
            target = self._rng.choice(
                (
                    address(first + POINTER * self._rng.randrange(slots)),
                    address(memory.end + self._rng.randrange(1 << 40)) & ((1 << 64) - 1),
                    self._rng.getrandbits(64),
                    self._rng.randrange(4096),
                )
            )
            data = target.to_bytes(POINTER, "little")
        data = data[: max(0, end - position)]
        memory.write(position, data)
        return Change(kind, where, position, position + len(data))
