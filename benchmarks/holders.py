"""Measures the search behind `mmdump holders` against what it is made of, as ratios in one run.

    python benchmarks/holders.py VMCORE [-s VMLINUX]

The same memory is gone through each time: what `holders` searches of the dump by default, and with
--everywhere all of its memory that is there. Every figure is a median over pairs of runs, one after another,
with the range it was found in.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench import opened, paired, show, timed

#: Bytes copied at once.
BLOCK = 1 << 20


def main() -> None:
    """Take the measurements that were asked for."""
    import numpy as np
    import polars as pl

    from mmdump.scan import Ranges
    from mmdump.target.coverage import PhysStatus
    from mmdump_holders.casework import Forms, spans_of
    from mmdump_holders.ranges import joined_runs, left_out, read_own, runs_of
    from mmdump_holders.search import search

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vmcore")
    parser.add_argument("-s", "--symbols", action="append", default=[])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--everywhere", action="store_true")
    options = parser.parse_args()
    kernel, _ = opened(options)
    target = kernel.target
    own, coverage = read_own(kernel), target.dump.coverage
    parts, allocated = [], []
    for pages in Ranges(kernel):
        out = left_out(pages, own, users=options.everywhere, free=options.everywhere)
        out |= coverage.status(pages.start, len(pages)) != PhysStatus.PRESENT
        parts.append(pl.DataFrame(runs_of(pages, out)))
        allocated.append(np.flatnonzero((pages.refcount > 0) & ~pages.is_tail) + pages.start)
    runs = joined_runs(pl.concat(parts))
    size = int(runs["pages"].sum()) << target.page_shift
    chosen = np.sort(np.random.default_rng(1).choice(np.concatenate(allocated), 100, replace=False))

    def searching(heads: Any) -> float:
        spans = spans_of(kernel, heads, np.ones(len(heads), np.int64), Forms())
        return timed(lambda: search(kernel, runs, spans))

    def copying() -> None:
        for start, pages in runs.iter_rows():
            at, end = start << target.page_shift, (start + pages) << target.page_shift
            while at < end:
                target.prog.read(at, min(BLOCK, end - at), True)
                at += BLOCK

    def helper(pfns: Any) -> None:
        wanted = [kernel.memmap.address(int(pfn)) for pfn in pfns]
        iterator = target.prog.search_memory_word(*wanted)
        low, high = runs["start"].to_numpy(), (runs["start"] + runs["pages"]).to_numpy()
        for start, end in zip(low.tolist(), high.tolist(), strict=True):
            iterator.set_address_range(
                start << target.page_shift, (end << target.page_shift) - 1, physical=True
            )
            for _ in iterator:
                pass

    print(f"{size / 1e6:.1f} MB in {len(runs)} runs")
    one, plain, to_copy = paired(lambda: searching(chosen[:1]), lambda: timed(copying), options.runs)
    show("search for one page", [size / each / 1e9 for each in one], " GB/s")
    show("plain copy", [size / each / 1e9 for each in plain], " GB/s")
    show("search : copy", to_copy)
    _, _, hundred = paired(lambda: searching(chosen), lambda: searching(chosen[:1]), options.runs)
    show("a hundred pages : one page", hundred)
    for count in (1, 100):
        few = chosen[:count]
        _, theirs, ratio = paired(partial(searching, few), partial(timed, partial(helper, few)), options.runs)
        show(f"drgn.search_memory_word, {count}", [size / each / 1e9 for each in theirs], " GB/s")
        show(f"search : drgn's, {count}", ratio)


if __name__ == "__main__":
    main()
