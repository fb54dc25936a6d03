"""Measures ``mmdump page-owner`` on a machine with millions of allocations, as ratios in one run.

    python benchmarks/owners.py [--memory GIB] [--records N] [--tool TOOL] [--directory DIR] [-n RUNS]

A dump is generated in a temporary directory and deleted again: all memory is allocated, most of it as huge
pages of processes, and N pages one by one by a few hundred call chains of the kernel, each page by another
chain than its neighbour. These pages are allocated in large blocks and split; their records, which a step by
step allocation would fill one at a time, are written as columns. Then, in turn:

- ``mmdump page-owner``, which groups all records by call chain, as a whole process
- drgn's objects, record by record, on a sample; the time is scaled to all records. It must find the same
- ``mmdump cat`` of page_owner to a file, and the kernel's ``page_owner_sort --cull=stacktrace`` on that

page_owner_sort is the testbed's, of the runs in MMDUMP_TESTBED_RUNS, or the one that is given.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bench import timed

if TYPE_CHECKING:
    from mmdump_snapshots.model import Machine

#: Call chains of the small pages, and tasks that they run in.
_CHAINS, _TASKS = 400, 60
#: The machine was up for so many seconds.
_UPTIME = 86400
#: Pages that are read through drgn's objects.
_SAMPLE = 20_000
_FUNCTIONS = (
    *("vfs_read", "vfs_write", "ksys_read", "ksys_write", "do_sys_open", "path_openat"),
    *("link_path_walk", "kernel_clone", "do_exit", "handle_mm_fault"),
)


def fill(machine: Machine, records: int) -> tuple[int, int]:
    """Allocate all memory: so many single pages, and huge pages.

    :return: The longest run of PFNs [start, end) of single pages.
    """
    pfns = small_pages(machine, records)
    own(machine, pfns)
    huge_pages(machine)
    machine.clock.advance(_UPTIME - machine.clock.now / 1e9)
    starts = np.flatnonzero(np.diff(pfns, prepend=-2) != 1)
    lengths = np.diff(np.append(starts, len(pfns)))
    longest = int(np.argmax(lengths))
    first = int(pfns[starts[longest]])
    return first, first + int(lengths[longest])


def small_pages(machine: Machine, count: int) -> np.ndarray:
    """Allocate this many pages and more, up to a whole block, and split the blocks: PFNs, ascending."""
    from mmdump_snapshots.model.gfp import Gfp
    from mmdump_snapshots.scenarios.frames import syscall

    order = machine.era.max_order
    found: list[np.ndarray] = []
    with machine.running(machine.task("modprobe", pid=400), *syscall(machine, "ioctl")):
        while len(found) << order < count:
            pfn = machine.alloc_pages(order, Gfp.KERNEL)
            if pfn is None:
                raise SystemExit(f"{count} pages are more than this machine has")
            machine.split_page(pfn, order)
            found.append(np.arange(pfn, pfn + (1 << order)))
    return np.sort(np.concatenate(found))


def own(machine: Machine, pfns: np.ndarray) -> None:
    """Write the records of pages as if they had been allocated one by one, by many chains and tasks."""
    from mmdump_snapshots.model.gfp import Gfp
    from mmdump_snapshots.scenarios.frames import syscall

    owner, depot = machine.page_owner, machine.stack_depot
    assert owner is not None
    owners, handles, comms = owner.owners, [], []
    for number in range(_CHAINS):
        task = machine.task(f"worker/{number % _TASKS}", pid=1000 + number % _TASKS)
        places = enumerate(f"{number:04d}")
        chain = tuple(f"{_FUNCTIONS[int(digit)]}+{0x10 + 8 * place:#x}" for place, digit in places)
        with machine.running(task, *chain, *syscall(machine, "ioctl")):
            pfn = machine.alloc_pages(0, Gfp.KERNEL)
        handles.append(int(owners.handle[pfn]))
        comms.append(int(owners.comm[pfn]))
    rng = np.random.default_rng(1)
    before = depot.by_handle[int(owners.handle[pfns[0]])]
    # A few chains have most of it, as everywhere.
    which = (rng.power(3, len(pfns)) * _CHAINS).astype(np.int64)
    owners.handle[pfns] = np.array(handles, np.uint32)[which]
    owners.comm[pfns] = np.array(comms, np.uint16)[which]
    owners.pid[pfns] = owners.tgid[pfns] = 1000 + which % _TASKS
    owners.ts[pfns] = rng.integers(machine.clock.now, _UPTIME * 10**9, len(pfns), np.uint64)
    before.count -= len(pfns)
    for handle, pages in zip(handles, np.bincount(which, minlength=_CHAINS).tolist(), strict=True):
        depot.by_handle[handle].count += pages


def huge_pages(machine: Machine) -> None:
    """Let four virtual machines take what is left, in huge pages."""
    from mmdump_snapshots.model.mm import Mm

    order = machine.era.pmd_order
    each = sum(zone.free_pages for zone in machine.zones) * 98 // 100 >> order >> 2
    for number in range(4):
        task = machine.task("qemu-system-x86", pid=2000 + number)
        mm = Mm(machine, task)
        vma = mm.mmap(each << order)
        for slot in range(0, each << order, 1 << order):
            mm.fault(vma, slot, order=order)


def generate(vmcore: Path, gib: int, records: int) -> tuple[int, int]:
    """Make the dump, without the truth of millions of records; what :func:`fill` returns."""
    from mmdump_snapshots.kernels import profile
    from mmdump_snapshots.model import Machine
    from mmdump_snapshots.scenario import DEFAULT_PROFILE
    from mmdump_snapshots.writer.image import build

    kernel = profile(DEFAULT_PROFILE)
    machine = Machine(kernel.era, memory=gib << 30)
    run = fill(machine, records)
    image = build(machine, kernel, kaslr=1)
    vmcore.with_name("vmlinux").write_bytes(image.vmlinux.elf)
    with vmcore.open("wb", buffering=0) as file:
        image.dump(file)
    return run


def command(*words: str | Path) -> Callable[[], object]:
    """A process of this Python's mmdump."""
    return lambda: subprocess.run([sys.executable, "-m", "mmdump", *words], check=True, capture_output=True)


def page_owner(vmcore: Path, first: int, last: int) -> dict[int, list[Any]]:
    """What page-owner says of a range of pages, in the form of :class:`drgn_objects.Allocated`."""
    from mmdump.kernel import Kernel
    from mmdump.plugins import load_plugins
    from mmdump.scan import run_one
    from mmdump.target import open_target

    plugins = load_plugins(disabled=["*"])
    kernel = Kernel(open_target(vmcore), plugins.page_ext_clients())
    asked: Callable[..., Any] = plugins.analyses()["page-owner"]
    found = run_one(kernel, asked(pfn=(f"{first}-{last - 1}",)))
    names = ("pages", "allocations", "oldest_ts_nsec", "newest_ts_nsec")
    rows = found.tables["groups"].frame.to_dicts()
    return {row["stack_id"]: [*(row[name] for name in names), set(row["comms"])] for row in rows}


def tool() -> Path | None:
    """page_owner_sort of the testbed's runs; None where there is none."""
    from testbed.sort import tool_of

    runs = os.environ.get("MMDUMP_TESTBED_RUNS")
    for run in sorted(Path(runs).iterdir()) if runs else ():
        found: Path | None = tool_of(run) if (run / "run.json").is_file() else None
        # One for this machine, not for the guest's.
        if found is not None and "arm64" not in run.name:
            return found
    return None


def measure(vmcore: Path, small: tuple[int, int], sort: Path | None, runs: int) -> None:
    """Run everything in turn, and print the table."""
    from drgn_objects import Allocated

    from mmdump.target import open_target

    text, out = vmcore.with_name("page_owner"), vmcore.with_name("sorted")
    ours = command("page-owner", vmcore, "-o", os.devnull, "-f", "text")
    printing = command("cat", vmcore, "page_owner", "-o", text)

    def cat() -> float:
        # mmdump overwrites nothing.
        text.unlink(missing_ok=True)
        return timed(printing)

    cat()
    records = int(subprocess.run(["grep", "-c", "^PFN", text], check=True, capture_output=True).stdout)
    print(f"{records} records, {text.stat().st_size / (1 << 20):.0f} MiB of text, {runs} rounds")
    by_hand = Allocated(open_target(vmcore).prog)
    first, last = small[0], min(small[1], small[0] + _SAMPLE)
    same = by_hand.by_stack(first, last) == page_owner(vmcore, first, last)
    print(f"drgn objects on {last - first} records: {'the same' if same else 'NOT the same'} groups")

    def objects() -> float:
        return timed(lambda: by_hand.by_stack(first, last)) / (last - first) * records

    ways: dict[str, Callable[[], float]] = {
        "mmdump page-owner": lambda: timed(ours),
        "drgn objects, scaled": objects,
        "mmdump cat page_owner": cat,
    }
    if sort is None:
        print("There is no page_owner_sort here: the testbed builds it, see kernel-config.")
    else:
        sorting: list[str | Path] = [sort, "--cull=stacktrace", text, out]
        ways["page_owner_sort"] = lambda: timed(
            lambda: subprocess.run(sorting, check=True, capture_output=True)
        )
    rounds = [{name: way() for name, way in ways.items()} for _ in range(runs)]
    if sort is not None:
        for each in rounds:
            each["cat and page_owner_sort"] = each["mmdump cat page_owner"] + each["page_owner_sort"]
    show(rounds)


def show(rounds: list[dict[str, float]]) -> None:
    """Medians and ranges: seconds, nanoseconds, and times what page-owner takes in the same round."""
    print(f"{'':26}{'seconds':>10}{'':22}{'times page-owner'}")
    for name in rounds[0]:
        seconds = [each[name] for each in rounds]
        ratios = [each[name] / each["mmdump page-owner"] for each in rounds]
        spread = f"({min(seconds):.2f} .. {max(seconds):.2f})"
        print(
            f"{name:26}{statistics.median(seconds):10.2f}  {spread:20}{statistics.median(ratios):8.1f}  "
            f"({min(ratios):.1f} .. {max(ratios):.1f})",
            flush=True,
        )


def main() -> None:
    """Generate, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, default=64, metavar="GIB")
    parser.add_argument("--records", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--tool", type=Path, metavar="TOOL", help="The kernel's page_owner_sort.")
    parser.add_argument("--directory", type=Path, help="Where the dump is made, for a while.")
    parser.add_argument("-n", "--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmdump-owners-", dir=options.directory) as directory:
        vmcore, start = Path(directory) / "vmcore", time.perf_counter()
        small = generate(vmcore, options.memory, options.records)
        print(f"a dump of {options.memory} GiB, made in {time.perf_counter() - start:.0f} s", flush=True)
        measure(vmcore, small, options.tool or tool(), options.runs)


if __name__ == "__main__":
    main()
