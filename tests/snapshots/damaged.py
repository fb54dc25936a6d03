"""One damaged dump after the other, in a process of its own: run as a script, it answers lines of JSON.

A case is all in its seed. What libkdumpfile does to a damaged file may kill the process, so that the tests
only talk to it; and what a command prints is caught at its file descriptors.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdump_snapshots.writer.damage import Change, Damage
from mmdump_snapshots.writer.flatten import flatten
from mmdump_snapshots.writer.memory import PhysicalMemory

if TYPE_CHECKING:
    from mmdump_snapshots.writer.damage import Ranges
    from mmdump_snapshots.writer.image import Image

#: What a damaged dump was made as: container, compression, makedumpfile's level.
BASES = {
    "elf": ("elf", None, 0),
    "elf-d31": ("elf", None, 31),
    "zlib": ("kdump", "zlib", 0),
    "zstd": ("kdump", "zstd", 0),
    "zlib-d31": ("kdump", "zlib", 31),
}
COMMANDS = (
    ("info", "{}", "-f", "json"),
    ("pinned", "{}", "-f", "json"),
    ("pinned", "{}", "--cma"),
    ("page-owner", "{}", "-f", "json"),
    ("page-owner", "{}"),
    ("cat", "{}", "page_owner"),
    ("cat", "{}", "kpageflags"),
    ("holders", "{}", "HELD", "-f", "json"),
    ("holders", "{}", "HELD", "ANY", "--phys", "--pfn-values", "--everywhere"),
    ("pinned", "{}", "--holders", "-f", "json"),
    ("page", "{}", "HELD", "ANY", "--holders", "-f", "json"),
    ("trace", "{}", "-f", "json"),
    ("trace", "{}"),
    ("alloc-tags", "{}", "-f", "json"),
    ("pinner-events", "{}", "-f", "json"),
    ("map", "{}", "-f", "json"),
    ("report", "{}", "-f", "md"),
    ("report", "{}", "-f", "json"),
    ("cat", "{}", "/sys/kernel/tracing/trace"),
    ("cat", "{}", "/proc/allocinfo"),
    ("cat", "{}", "page_pinner/buffer"),
)
#: Of these a result says no coverage: they walk lists, or name pages one by one.
NO_COVERAGE = {"trace", "pinner-events", "page"}
#: What a result says that is not whole.
SAYS_WHY = rb"incomplete|could not|cannot|is not in the dump|are not in the dump|is torn|garbage|left out"
MASK = (1 << 64) - 1
PAGE_DESC = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
#: Memory that a command may take, whatever the dump says: bytes.
LIMIT = 600 << 20


def build(profile_name: str, directory: Path) -> None:
    """Write a kernel's dumps, and what is in them."""
    from mmdump_snapshots.kernels import profile
    from mmdump_snapshots.scenarios import SCENARIOS
    from mmdump_snapshots.writer.targets import targets

    kernel = profile(profile_name)
    scenario = next(each for each in SCENARIOS if each.name == "cma-shared")
    scenario = replace(scenario, boot={**scenario.boot, "mem_profiling": True})
    image = scenario.image(kernel, memory=(128 << 20) << (kernel.page_shift - 12), seed=3)
    directory.mkdir(parents=True)
    (directory / "vmlinux").write_bytes(image.vmlinux.elf)
    layouts = {}
    for name, (container, compression, level) in BASES.items():
        with (directory / name).open("wb", buffering=0) as file:
            layouts[name] = image.dump(file, container, compression=compression, filter_level=level)
    facts = {
        "ram": image.memory.ram,
        "page_size": kernel.page_size,
        "direct": image.addresses.direct(0),
        "targets": targets(image) | {"objects": others(image, targets(image))},
        "layouts": layouts,
        "held": [page["pfn"] for page in image.truth["pinned"]],
    }
    (directory / "facts.json").write_text(json.dumps(facts))


def others(image: Image, known: Ranges) -> list[tuple[int, int]]:
    """Pages with something else in them than the structures known by name: tasks, slabs, files, pipes, ring
    buffers, what is traced by them, strings.
    """
    page, taken = image.addresses.page_size, [each for ranges in known.values() for each in ranges]
    return [
        (at, at + page)
        for start, end in image.memory.ram
        for at in range(start, end, page)
        if any(image.memory.read(at, page)) and not any(low < at + page and at < high for low, high in taken)
    ]


class Base:
    """A kernel's dumps, undamaged.

    :ivar memory: What is in memory, to be damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        facts = json.loads((directory / "facts.json").read_text())
        self.page_size: int = facts["page_size"]
        self.direct: int = facts["direct"]
        self.targets: dict[str, list[tuple[int, int]]] = facts["targets"]
        self.layouts: dict[str, dict[str, list[tuple[int, int]]]] = facts["layouts"]
        self.ram: list[tuple[int, int]] = facts["ram"]
        self.held: list[int] = facts["held"]
        self.offsets = load_segments(directory / "elf")
        self.memory = self._memory()

    def _memory(self) -> PhysicalMemory:
        memory = PhysicalMemory(self.ram)
        dump = np.memmap(self.directory / "elf", np.uint8, "r")
        for start, end, offset in self.offsets:
            memory.write(start, dump[offset : offset + end - start])
        return memory

    def damage_memory(self, damage: Damage, path: Path, kind: str, changes: int) -> list[Change]:
        """Damage what is in memory, and put it into a copy of the dump of that kind."""
        memory = self._memory()
        done = damage.memory(
            memory, self.targets, address=lambda phys: phys + self.direct & MASK, changes=changes
        )
        with path.open("r+b", buffering=0) as file:
            for change in done:
                if kind.startswith("elf"):
                    for start, end, offset in load_segments(path):
                        low, high = max(start, change.start), min(end, change.end)
                        if low < high:
                            file.seek(offset + low - start)
                            file.write(memory.read(low, high - low))
                else:
                    self._into_kdump(file, kind, memory, change)
        return done

    def _into_kdump(self, file: Any, kind: str, memory: PhysicalMemory, change: Change) -> None:
        """Let the descriptors of the pages point to what they are now, at the end of the file."""
        layout, page = self.layouts[kind], self.page_size
        (low, high), table = layout["bitmaps"][0], layout["descriptors"][0][0]
        file.seek((low + high) // 2)
        dumped = np.unpackbits(np.frombuffer(file.read((high - low) // 2), np.uint8), bitorder="little")
        for pfn in range(change.start // page, -(-change.end // page)):
            if dumped[pfn]:
                end = file.seek(0, os.SEEK_END)
                file.write(memory.read(pfn * page, page))
                file.seek(table + PAGE_DESC.itemsize * int(dumped[:pfn].sum()))
                file.write(np.array((end, page, 0, 0), PAGE_DESC).tobytes())


def load_segments(path: Path) -> list[tuple[int, int, int]]:
    """(physical start, end of what is in the file, file offset) of an ELF core's segments."""
    with path.open("rb") as file:
        header = file.read(64)
        (count,) = np.frombuffer(header, "<u2", 1, 56)
        words = np.frombuffer(file.read(int(count) * 56), "<u8").reshape(-1, 7)
    return [
        (int(row[3]), int(row[3] + row[4]), int(row[1]))
        for row in words
        if int(row[0]) & 0xFFFFFFFF == 1 and row[4]
    ]


def copy(source: Path, target: Path) -> None:
    """Copy a file with its holes."""
    with source.open("rb") as file, target.open("wb") as out:
        size = os.fstat(file.fileno()).st_size
        out.truncate(size)
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            while start < position:
                start += os.copy_file_range(file.fileno(), out.fileno(), position - start, start, start)


class Worker:
    """Makes damaged dumps, and looks at what the commands do with them."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory = directory
        self.scratch = scratch
        self.names = sorted(each.name for each in directory.iterdir())
        self._bases: dict[str, Base] = {}

    def damaged(self, seed: int) -> tuple[Path, str]:
        """Make a case's dump; its path, and what was done in words."""
        rng = Random(seed)
        name, kind = rng.choice(self.names), rng.choice(list(BASES))
        base = self._bases.setdefault(name, Base(self.directory / name))
        path = self.scratch / "vmcore"
        damage = Damage(rng.getrandbits(64))
        copy(base.directory / kind, path)
        done: list[Change] = []
        how = rng.choice(("memory", "memory", "memory", "file", "file", "both", "cut"))
        if how in ("memory", "both"):
            done += base.damage_memory(damage, path, kind, rng.choice((1, 2, 4, 8)))
        if how in ("file", "both"):
            done += damage.file(path, base.layouts[kind], changes=rng.choice((1, 2, 4)))
        if how == "cut":
            done += damage.file(path, changes=0, cut=1.0)
        if kind.startswith("z") and rng.random() < 0.3:
            kind += " flattened"
            plain = path.rename(path.with_name("plain"))
            with path.open("wb") as out:
                flatten(plain, out)
            if rng.random() < 0.5:
                done += damage.file(path, changes=2)
        (self.scratch / "vmlinux").unlink(missing_ok=True)
        if rng.random() < 0.95:
            (self.scratch / "vmlinux").symlink_to(base.directory / "vmlinux")
        else:
            kind += " without debug info"
        return path, f"{name}, {kind}: {'; '.join(map(str, done))}"

    def run(self, seed: int, every: bool = False) -> dict[str, Any]:
        """Run some commands on a case.

        :return: What was done, and what was wrong with what they did: nothing is all well.
        """
        path, what = self.damaged(seed)
        base = self._bases[what.partition(",")[0]]
        rng = Random(~seed)
        problems = []
        times = {}
        for command in COMMANDS if every else rng.sample(COMMANDS, 2):
            start, end = rng.choice(base.ram)
            pages = {
                "HELD": rng.choice(base.held),
                "ANY": rng.randrange(start // base.page_size, end // base.page_size),
            }
            words = [str(pages[word]) if word in pages else word.format(path) for word in command]
            began = time.monotonic()
            status, out, err = called(words)
            times[" ".join(command)] = round(time.monotonic() - began, 2), status, err[:2000]
            problems += [f"{' '.join(command)}: {each}" for each in wrong(command, status, out, err)]
        return {"seed": seed, "what": what, "problems": problems, "runs": times}


def called(words: list[str]) -> tuple[int, bytes, str]:
    """Run a command line in this process: exit status, standard output, standard error."""
    from mmdump.cli import main

    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            status = main(words)
        except BaseException:  # nothing may come out of it
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, old in enumerate(saved, 1):
                os.dup2(old, fd)
                os.close(old)
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read().decode("utf-8", "replace")


def wrong(command: tuple[str, ...], status: int, out: bytes, err: str) -> list[str]:
    """What a command may not do, and did."""
    found = []
    if status not in (0, 2, 3, 4, 5):
        found.append(f"exit status {status}: {err[-1500:]}")
    if "Traceback" in err or "internal error" in err or "Warning" in err:
        found.append(f"stderr: {err[-3000:]}")
    if status in (2, 3, 4) and not re.search(r"^mmdump: \S.*", err, re.MULTILINE):
        found.append(f"exit status {status}, and no sentence says why: {err!r}")
    if status == 5 and not err.strip() and not re.search(SAYS_WHY, out):
        found.append("exit status 5, and nothing says what is missing")
    if status == 0 and not out and not err:
        found.append("success, and nothing is said")
    if status in (0, 5) and "json" in command and (out or not err):
        found += wrong_document(command[0], status, json.loads(out))
    return found


def wrong_document(command: str, status: int, document: dict[str, Any]) -> list[str]:
    if command == "report":
        return [] if document["sections"] or document["absent"] else ["a report of nothing"]
    found = []
    if (status == 5) != bool(document["incomplete"]):
        found.append(f"exit status {status}, incomplete: {document['incomplete']}")
    coverage = document.get("coverage")
    if coverage is None:
        # What is in the dump at all.
        memory = document["tables"].get("memory_in_dump")
        if command not in NO_COVERAGE and (memory is None or not memory["rows"]):
            found.append("no coverage")
        return found
    for part in (coverage, coverage.get("page_ext") or coverage):
        parts = [part[name] for name in ("read", "unreadable", "zero_filled", "erased")]
        if part["pages"] <= 0 or sum(parts) != part["pages"]:
            found.append(f"the coverage does not add up: {part}")
        if status == 0 and part["read"] != part["pages"]:
            found.append(f"success, and not all was read: {part}")
    return found


def main() -> None:
    """Answer lines of JSON on standard input with lines on what was standard output."""
    answers = os.fdopen(os.dup(1), "w")
    directory = Path(sys.argv[1])
    os.environ.pop("DEBUGINFOD_URLS", None)
    with tempfile.TemporaryDirectory(prefix="damaged-", dir=directory.parent) as scratch:
        worker = None
        for line in sys.stdin:
            asked = json.loads(line)
            if "build" in asked:
                build(asked["build"], directory / asked["build"])
                answer: dict[str, Any] = {"problems": []}
            else:
                if worker is None:
                    worker = Worker(directory, Path(scratch))
                    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
                    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT + used, LIMIT + used))
                try:
                    answer = worker.run(asked["seed"], asked.get("every", False))
                except Exception:
                    answer = {"seed": asked["seed"], "problems": [traceback.format_exc()]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
