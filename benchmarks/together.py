"""Measures what analyses cost together, in one pass over the page array, against the slowest of them alone.

    python benchmarks/together.py [--size GIB] [--story idle|busy] [--directory DIR] [-n RUNS] [ANALYSIS...]

The dump is synthetic, made in a temporary directory and deleted again. Every analysis runs alone and then all
of them in one pass, in turn, so that each run of all is held against the single ones right before it. Times
are of the processor, which is less at the mercy of what else a machine does; ratios are medians with their
range. "All" costs less than the sum as each range of pages is read once, and what is made of its columns
(heads, types, masks) is made once. Streamed rows go nowhere.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench import Nowhere, cpu, offered
from growth import _generate, fresh


def measure(vmcore: str, names: list[str], runs: int) -> dict[str, list[float]]:
    """Seconds of every run, by analysis, and of all in one pass under the name ``all``."""
    from mmdump.kernel import Kernel
    from mmdump.scan import run
    from mmdump.target import open_target

    plugins, made = offered(names)
    kernel = Kernel(open_target(Path(vmcore)), plugins.page_ext_clients())
    made = {name: make for name, make in made.items() if make().why_not(kernel) is None}

    def once(makers: list[Callable[[], Any]]) -> float:
        return cpu(lambda: run(kernel, [make() for make in makers], [Nowhere() for _ in makers]))

    work = {name: [make] for name, make in made.items()} | {"all": list(made.values())}
    times: dict[str, list[float]] = {name: [] for name in work}
    # The first round fills what is read once for each kernel, and is not counted.
    for number in range(runs + 1):
        for name, makers in work.items():
            took = once(makers)
            if number:
                times[name].append(took)
    return times


def show(times: dict[str, list[float]]) -> None:
    """A row for each analysis, and for all of them."""
    together = times.pop("all")
    slowest = max(times, key=lambda name: statistics.median(times[name]))
    print(f"{'':14}{'CPU s':>8}   all : this one")
    for name, alone in sorted(times.items(), key=lambda each: -statistics.median(each[1])):
        ratios = [a / b for a, b in zip(together, alone, strict=True)]
        mark = "  the slowest" if name == slowest else ""
        print(
            f"{name:14}{statistics.median(alone):8.3f}{statistics.median(ratios):8.2f} "
            f"({min(ratios):.2f} .. {max(ratios):.2f}){mark}"
        )
    total = sum(statistics.median(alone) for alone in times.values())
    print(f"{'one by one':14}{total:8.3f}{statistics.median(together) / total:8.2f}")
    print(f"{'all':14}{statistics.median(together):8.3f}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("analyses", nargs="*", metavar="ANALYSIS")
    parser.add_argument("--size", type=int, default=64, metavar="GIB")
    parser.add_argument("--story", choices=["idle", "busy"], default="idle")
    parser.add_argument("--directory", type=Path, help="Where the dump is made, for a while.")
    parser.add_argument("-n", "--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmdump-together-", dir=options.directory) as directory:
        fresh(_generate, options.story, options.size, directory)
        times = measure(str(Path(directory) / "vmcore"), options.analyses, options.runs)
    print(f"{options.story} machine of {options.size} GiB, {options.runs} rounds")
    show(times)


if __name__ == "__main__":
    main()
