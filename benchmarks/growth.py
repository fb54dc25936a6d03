"""Measures how generating and analysing dumps grows with the machine, against plain writing and reading.

    python benchmarks/growth.py [--sizes 1 4 16 64] [--story idle|busy] [-n RUNS] [--directory DIR] [NAME...]

For machines of these sizes in GiB, each dump made in a temporary directory and deleted again:

- generating it : writing as many bytes to a file (holes are not bytes)
- each analysis that reads pages, and ``check``, on an opened dump : prog.read of the same struct pages, and
  of the same page_ext where it needs that; ``pages``, all columns of all pages, only where it is named
- peak RssAnon of the processes ``mmdump snapshot generate`` and ``mmdump ANALYSIS``

The growth is by how much twice the memory multiplies processor time; 2 is linear, less is what it takes
whatever the size. Reading is compared by processor time too, which is less at the mercy of what else a
machine does; writing by the clock, as whole processes. ``busy`` fills nine tenths of the memory with huge
pages of four virtual machines, so that there is something to read; its truth lists every one of them. Each
machine has a CMA area of a sixty-fourth of its memory.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from bench import Nowhere, _rss_anon, cpu, metadata, offered, paired, timed

if TYPE_CHECKING:
    from mmdump_snapshots.model import Machine

_PIECE = 4 << 20
_VIRTUAL_MACHINES = 4


@dataclass(frozen=True)
class Measured:
    """What was measured at one size.

    :ivar size: Memory of the machine, GiB.
    :ivar cpu: Seconds of processor time.
    :ivar ours: Seconds, of processor time where things are read; the least of all runs, as is ``cpu``.
    :ivar theirs: The same of plain writing or reading.
    :ivar ratios: Pair by pair.
    :ivar peak: RssAnon in bytes.
    :ivar bytes: Written or read.
    """

    size: int
    cpu: float
    ours: float
    theirs: float
    ratios: list[float]
    peak: int
    bytes: int


def busy(machine: Machine) -> None:
    """What ``idle`` does, and virtual machines that fill nine tenths of memory with huge pages."""
    from mmdump_snapshots.model.mm import Mm
    from mmdump_snapshots.scenarios.boot import idle

    idle(machine)
    order = machine.era.pmd_order
    each = (machine.pages.count * 9 // 10 >> order) // _VIRTUAL_MACHINES
    for number in range(_VIRTUAL_MACHINES):
        task = machine.task("qemu-system-x86", pid=1000 + number)
        mm = Mm(machine, task)
        vma = mm.mmap(each << order)
        for slot in range(0, each << order, 1 << order):
            mm.fault(vma, slot, order=order)


def _generate(story: str, size: int, directory: str, cma: int = 0) -> float:
    from mmdump_snapshots.kernels import profile
    from mmdump_snapshots.scenario import DEFAULT_PROFILE, Scenario
    from mmdump_snapshots.scenarios.boot import idle

    boot = {"cma": (("reserved", cma),)} if cma else {}
    made = Scenario(story, "", {"idle": idle, "busy": busy}[story], boot=boot)
    made.image(profile(DEFAULT_PROFILE), memory=size << 30).write(directory)
    return time.process_time()


def _analyse(name: str, vmcore: str) -> float:
    from mmdump.cli import main

    # Text has enough of streamed rows before they end.
    status = main([name, vmcore, "-o", os.devnull, "-f", "csv" if name == "pages" else "text"])
    if status:
        raise SystemExit(f"{name} ended with status {status}")
    return time.process_time()


def _compare(name: str, vmcore: str, runs: int) -> tuple[float, float, list[float], int] | None:
    """An analysis against a plain read, in one process: least seconds of the processor, ratios, bytes.

    None where it cannot run.
    """
    from mmdump.kernel import Kernel
    from mmdump.malloc import keep_freed_memory
    from mmdump.scan import run_one
    from mmdump.target import open_target

    plugins, made = offered([name])
    target = open_target(Path(vmcore))
    kernel = Kernel(target, plugins.page_ext_clients())
    analysis = made[name]()
    if analysis.why_not(kernel) is not None:
        return None
    wants_ext = any(kernel.page_ext.enabled(each) for each in analysis.page_ext)
    spans = metadata(kernel, wants_ext=wants_ext)
    keep_freed_memory()

    def reading() -> None:
        for address, size in spans:
            target.prog.read(address, size)

    def whole() -> None:
        run_one(kernel, analysis, Nowhere())

    ours, theirs, ratios = paired(lambda: cpu(whole), lambda: cpu(reading), runs)
    return min(ours), min(theirs), ratios, sum(size for _, size in spans)


def _send(work: Callable[..., Any], arguments: tuple[Any, ...], answer: Any) -> None:
    answer.send(work(*arguments))


def fresh(work: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a call returns in a process of its own, and that process's peak RssAnon in bytes."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_send, args=(work, arguments, theirs))
    process.start()
    peak = 0
    while process.is_alive():
        peak = max(peak, _rss_anon(process.pid or 0))
        process.join(0.01)
    if process.exitcode or not mine.poll():
        raise SystemExit(f"{work.__name__}{arguments} failed")
    return mine.recv(), peak


def plain_write(path: Path, size: int) -> None:
    """Write so many bytes, none of them a hole."""
    piece = memoryview(os.urandom(_PIECE))
    with path.open("wb", buffering=0) as file:
        while size:
            size -= file.write(piece[: min(size, _PIECE)])


def generating(story: str, size: int, directory: Path, runs: int) -> Measured:
    """Generate the dump, in turn with writing as many bytes; the last dump stays."""
    target, other = directory / f"{size}", directory / "plain"
    peaks: list[int] = []
    cpus: list[float] = []

    def generate() -> float:
        shutil.rmtree(target, ignore_errors=True)
        # What is still to be written of an earlier run is not this one's.
        os.sync()
        start = time.perf_counter()
        spent, peak = fresh(_generate, story, size, str(target), size << 30 >> 6)
        took = time.perf_counter() - start
        cpus.append(spent)
        peaks.append(peak)
        return took

    def write() -> float:
        os.sync()
        took = timed(lambda: plain_write(other, written(target)))
        other.unlink()
        return took

    ours, theirs, ratios = paired(generate, write, runs)
    return Measured(size, min(cpus), min(ours), min(theirs), ratios, max(peaks), written(target))


def written(directory: Path) -> int:
    """Bytes that the files of a directory take."""
    return sum(each.stat().st_blocks * 512 for each in directory.iterdir())


def measured(
    story: str, sizes: list[int], directory: Path, runs: int, names: list[str]
) -> Iterator[tuple[str, Measured]]:
    """All measurements, size by size."""
    for size in sizes:
        yield "generate", generating(story, size, directory, max(2, runs // 3))
        vmcore = str(directory / f"{size}" / "vmcore")
        for name in names:
            compared, _ = fresh(_compare, name, vmcore, runs)
            if compared is None:
                continue
            ours, theirs, ratios, total = compared
            _, peak = fresh(_analyse, name, vmcore)
            yield name, Measured(size, ours, ours, theirs, ratios, peak, total)
        shutil.rmtree(directory / f"{size}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("analyses", nargs="*", metavar="ANALYSIS")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64], metavar="GIB")
    parser.add_argument("--story", choices=["idle", "busy"], default="idle")
    parser.add_argument("--directory", type=Path, help="Where dumps are made, for a while.")
    parser.add_argument("-n", "--runs", type=int, default=9)
    options = parser.parse_args()
    names = sorted(offered(options.analyses)[1])
    before: dict[str, Measured] = {}
    print(f"{options.story} machines, {options.runs} pairs; generating: {max(2, options.runs // 3)}")
    print(f"{'':12} GiB     MiB   CPU s  growth       s  plain s  ratio{'':18}RssAnon")
    with tempfile.TemporaryDirectory(prefix="mmdump-growth-", dir=options.directory) as directory:
        sizes = sorted(options.sizes)
        for name, now in measured(options.story, sizes, Path(directory), options.runs, names):
            last, growth = before.get(name), ""
            if last is not None:
                growth = f"{(now.cpu / last.cpu) ** (1 / math.log2(now.size / last.size)):.2f}"
            before[name] = now
            ratio = statistics.median(now.ratios)
            spread = f"({min(now.ratios):.1f} .. {max(now.ratios):.1f})"
            print(
                f"{name:12}{now.size:4}{now.bytes / (1 << 20):8.0f}{now.cpu:8.2f}{growth:>8}{now.ours:8.2f}"
                f"{now.theirs:9.2f}{ratio:7.1f} {spread:16}{now.peak / (1 << 20):4.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
