"""Measures mmdump against what it is made of, as ratios in one run: absolute times depend on the machine.

    python benchmarks/bench.py scan   VMCORE [-s VMLINUX]   one scan of `pinned` : reading the same bytes
    python benchmarks/bench.py page   VMCORE [-s VMLINUX]   a page through drgn's objects : a page of the scan
    python benchmarks/bench.py start  VMCORE -s VMLINUX     until the first page : drgn's first type
    python benchmarks/bench.py memory VMCORE [-s VMLINUX]   peak RssAnon: as it is, and every page pinned

Every figure is a median over pairs of runs, one after the other, with the range it was found in.
How all of it grows with the machine is measured by growth.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from mmdump.result import Schema

sys.path.insert(0, str(Path(__file__).parent))


def paired(one: Callable[[], float], other: Callable[[], float], runs: int) -> tuple[list[float], ...]:
    """Seconds of both in turn, and their ratios pair by pair, after one run of each that is not counted."""
    one(), other()
    pairs = [(one(), other()) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs], [a / b for a, b in pairs]


def show(name: str, values: list[float], unit: str = "") -> None:
    """A median with its range."""
    middle = statistics.median(values)
    print(f"  {name:44} {middle:10.4g}{unit}  ({min(values):.4g} .. {max(values):.4g})")


def timed(work: Callable[[], object]) -> float:
    """Seconds a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Nowhere:
    """A sink that wants every row and keeps none."""

    satisfied = False

    def needs(self, schema: Schema) -> frozenset[str]:
        """All columns."""
        return frozenset(schema.names)

    def begin(self, schema: Schema) -> None:
        """Nothing to begin."""

    def rows(self, frame: pl.DataFrame) -> None:
        """They are forgotten."""


def cpu(work: Callable[[], object]) -> float:
    """Seconds of the processor that a call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def offered(names: list[str]) -> tuple[Any, dict[str, Callable[[], Any]]]:
    """The plugins, and how to make each analysis that is wanted: all that read pages, and `check`.

    Only where they are named those that no report has: they ask for pages first, or export all of them.
    """
    from mmdump.checking import CheckRun
    from mmdump.plugins import load_plugins

    plugins = load_plugins(disabled=["*"])
    made: dict[str, Callable[[], Any]] = {
        name: kind for name, kind in plugins.analyses().items() if kind.scans
    }
    made["check"] = lambda: CheckRun(plugins.checks())
    unknown = [name for name in names if name not in made]
    if unknown:
        raise SystemExit(f"no analysis named {', '.join(unknown)} reads pages; there are {', '.join(made)}")
    return plugins, {
        name: make
        for name, make in made.items()
        if (name in names if names else name == "check" or plugins.analyses()[name].in_report)
    }


def opened(options: argparse.Namespace) -> tuple[Any, Any]:
    """The kernel of the dump, and the analyses."""
    from mmdump.kernel import Kernel
    from mmdump.plugins import load_plugins
    from mmdump.target import open_target

    plugins = load_plugins(disabled=["*"])
    target = open_target(options.vmcore, symbols=options.symbols)
    return Kernel(target, plugins.page_ext_clients()), plugins.analyses()


def metadata(kernel: Any, *, wants_ext: bool = True) -> list[tuple[int, int]]:
    """Where struct pages and page_ext entries are, range by range: (address, bytes)."""
    memmap, ext = kernel.memmap, kernel.page_ext
    spans = []
    for start, end in memmap.chunks():
        spans.append((memmap.address(start), (end - start) * memmap.page_size))
        for row, low, high in memmap.sections.pieces(start, end) if wants_ext else ():
            base = int(memmap.sections.page_ext[row])
            spans.append(((base + ext.stride * low) % (1 << 64), (high - low) * ext.stride))
    return spans


def scan(options: argparse.Namespace) -> None:
    """The scan against a plain read of the bytes it looks at."""
    from mmdump.malloc import keep_freed_memory
    from mmdump.scan import run_one

    kernel, analyses = opened(options)
    analysis = analyses["pinned"]()
    state = analysis.start(kernel)
    memmap, prog = kernel.memmap, kernel.target.prog
    spans = metadata(kernel)

    def reading() -> None:
        for address, size in spans:
            prog.read(address, size)

    def scanning() -> None:
        for start, end in memmap.chunks():
            analysis.scan(kernel.pages(start, end, ext=True), state)

    def whole() -> None:
        run_one(kernel, analysis)

    keep_freed_memory()  # for both

    ours, theirs, ratios = paired(lambda: timed(scanning), lambda: timed(reading), options.runs)
    total = sum(size for _, size in spans)
    print(f"scan of {memmap.pages} pages, {total / (1 << 20):.1f} MiB of metadata, {options.runs} pairs")
    show("pinned: read and scan", ours, " s")
    show("prog.read of the same bytes", theirs, " s")
    show("ratio", ratios)
    show("per page", [1e9 * each / memmap.pages for each in ours], " ns")
    show("with names, sums and the result", [timed(whole) for _ in range(options.runs)], " s")


def page(options: argparse.Namespace) -> None:
    """A page through drgn's objects against a page of the scan; the rows must be the same."""
    from drgn_objects import Pinned as ByHand

    from mmdump.malloc import keep_freed_memory
    from mmdump.scan import run_one

    kernel, analyses = opened(options)
    analysis = analyses["pinned"]()
    state = analysis.start(kernel)
    start: int
    end: int
    start, end = list(kernel.memmap.chunks())[-1]
    first: int = max(start, kernel.cma_areas[0].base_pfn if kernel.cma_areas else start)
    last: int = min(end, first + 4096)
    by_hand = ByHand(kernel.target.prog)
    rows: list[Any] = []

    def objects() -> float:
        def work() -> None:
            rows[:] = by_hand.pages(first, last)

        return timed(work) / (last - first)

    def columns() -> float:
        return timed(lambda: analysis.scan(kernel.pages(start, end, ext=True), state)) / (end - start)

    keep_freed_memory()
    theirs, ours, ratios = paired(objects, columns, max(3, options.runs // 3))
    frame = run_one(kernel, analysis).tables["pages"].frame
    mine = {
        (row["pfn"], tuple(row["evidence"]), row["refcount"], row["owner_pid"], row["owner_comm"])
        for row in frame.to_dicts()
        if first <= row["pfn"] < last
    }
    hand = {
        (row["pfn"], tuple(row["evidence"]), row["refcount"], row["owner_pid"], row["owner_comm"])
        for row in rows
    }
    print(f"drgn objects on {last - first} pages, columns on {end - start}")
    print(f"  {len(hand)} rows, {'the same in both' if mine == hand else 'NOT the same in both'}")
    show("drgn objects, per page", [1e6 * each for each in theirs], " us")
    show("mmdump, per page", [1e6 * each for each in ours], " us")
    show("ratio", ratios)


_FIRST_PAGE = """
import sys
from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.target import open_target
import mmdump.cli
plugins = load_plugins(disabled=["*"])
analysis = plugins.analyses()["pinned"]()
with open_target(sys.argv[1], symbols=sys.argv[2:]) as target:
    kernel = Kernel(target, plugins.page_ext_clients())
    assert analysis.why_not(kernel) is None
    state = analysis.start(kernel)
    start, end = next(iter(kernel.memmap.chunks()))
    analysis.scan(kernel.pages(start, start + 1, ext=True), state)
"""


def start(options: argparse.Namespace) -> None:
    """A process until the first page is judged, against drgn until it knows struct page."""
    core, symbols = str(options.vmcore), [str(each) for each in options.symbols]
    flags = [word for each in symbols for word in ("-s", each)]
    drgn = [str(Path(sys.executable).with_name("drgn")), "-c", core, *flags, "-e", 'prog.type("struct page")']
    mine = [sys.executable, "-c", _FIRST_PAGE, core, *symbols]

    def run(command: list[str]) -> float:
        return timed(lambda: subprocess.run(command, check=True, capture_output=True))

    ours, theirs, ratios = paired(lambda: run(mine), lambda: run(drgn), options.runs)
    print(f"start, {options.runs} pairs of processes")
    show("mmdump to the first page", ours, " s")
    show("drgn to its first type", theirs, " s")
    show("ratio", ratios)


def memory(options: argparse.Namespace) -> None:
    """Peak RssAnon of whole processes, each in a fresh one."""
    print("peak RssAnon")
    for name, work in (
        ("pinned, text", _as_it_is),
        ("every page pinned, 64 GiB, csv", _all_pinned_csv),
        ("every page pinned, 64 GiB, json", _all_pinned_json),
        ("every page pinned, 64 GiB, text", _all_pinned_text),
    ):
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_measured, args=(work, options, theirs))
        process.start()
        peak = 0
        while process.is_alive():
            peak = max(peak, _rss_anon(process.pid or 0))
            process.join(0.02)
        print(f"  {name:44} {peak / (1 << 20):10.0f} MiB   {mine.recv() if mine.poll() else 'failed'}")


def _rss_anon(pid: int) -> int:
    try:
        found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _measured(work: Callable[..., str], options: argparse.Namespace, answer: Any) -> None:
    answer.send(work(options))


def _as_it_is(options: argparse.Namespace) -> str:
    from mmdump.cli import main

    flags = [word for each in options.symbols for word in ("-s", str(each))]
    return f"status {main(['pinned', str(options.vmcore), *flags, '-o', '/dev/null', '-f', 'text'])}"


def _all_pinned_csv(options: argparse.Namespace) -> str:
    return _all_pinned(options, "csv")


def _all_pinned_json(options: argparse.Namespace) -> str:
    return _all_pinned(options, "json")


def _all_pinned_text(options: argparse.Namespace) -> str:
    return _all_pinned(options, "text")


def _all_pinned(options: argparse.Namespace, form: str) -> str:
    """A made-up worst case: a machine of 64 GiB whose every page is anonymous, mapped, pinned and owned.

    Only the reading is made up: one range of pages is changed to that and given out for each range of the
    machine, under its own PFNs. All else is the real thing, to the bytes of the output.
    """
    import numpy as np

    from mmdump.kernel.memmap import RANGE_PAGES
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.page_ext import PageExtRange
    from mmdump.render import RenderOptions, open_renderer
    from mmdump.scan import run_one

    kernel, analyses = opened(options)
    layout, real = kernel.page_layout, kernel.pages(0, RANGE_PAGES, ext=True)
    raw = real._raw.copy()
    rows = raw.view(layout.dtype)
    rows["flags"] = layout.mask("PG_lru", "PG_swapbacked", "PG_uptodate") | (2 << kernel.zone_bits.zone_shift)
    rows["compound_head"], rows["mapping"], rows["_mapcount"], rows["_refcount"] = 0, 0x1001, 0, 1025
    owners = np.zeros(RANGE_PAGES * kernel.page_ext.stride, np.uint8)
    entries = owners.view(kernel.page_ext.dtype)
    entries["flags"] = 3
    record = entries["page_owner"]
    record["pid"], record["tgid"], record["comm"] = np.arange(RANGE_PAGES) % 97, 1, b"qemu-kvm"
    record["ts_nsec"] = np.arange(RANGE_PAGES)
    record["gfp_mask"], record["handle"] = 0x140DCA, 92798981
    status = np.zeros(RANGE_PAGES, np.uint8)
    pages = 64 << 18
    kernel.memmap.__dict__["ranges"] = np.array([[0, pages]])

    def made_up(start: int, end: int, **_: object) -> PageRange:
        extension = PageExtRange([owners[: (end - start) * kernel.page_ext.stride]], status, kernel.page_ext)
        return PageRange(start, raw, status, layout, kernel.zone_bits, None, extension)

    kernel.pages = made_up
    with open("/dev/null", "wb") as out:
        renderer = open_renderer(form, out, RenderOptions())
        began = time.perf_counter()
        result = run_one(kernel, analyses["pinned"](), renderer)
        renderer.finish(result)
        took = time.perf_counter() - began
    return f"{pages} rows in {took:.1f} s: {result.summary[0]}"


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["scan", "page", "start", "memory"])
    parser.add_argument("vmcore", type=Path)
    parser.add_argument("-s", "--symbols", action="append", default=[], type=Path)
    parser.add_argument("-n", "--runs", type=int, default=15)
    options = parser.parse_args()
    {"scan": scan, "page": page, "start": start, "memory": memory}[options.what](options)


if __name__ == "__main__":
    main()
