"""Who holds pages on the test bed's kernels, against what the workloads said that they did.

MMDUMP_TESTBED_RUNS names a directory with runs of kernel-config/testbed, each named like its kernel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from drgn import Object
from drgn.helpers.linux import for_each_file, for_each_task, page_to_pfn

from mmdump.kernel import Kernel
from mmdump.plugins import Plugins, load_plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump.target import open_target
from testbed.truth import parse_truth
from tests.real.test_holders import explained_folios

_WHERE = os.environ.get("MMDUMP_TESTBED_RUNS")
#: Random folios that are looked at: most that a run has.
_MANY = 10_000
RUNS = [
    (name, dump)
    for name in ("6.12", "6.1", "7.x", "6.12-arm64")
    for dump in ("vmcore.elf", "vmcore.kdump")
    if _WHERE and (Path(_WHERE) / name / dump).exists()
]

pytestmark = pytest.mark.skipif(not RUNS, reason="MMDUMP_TESTBED_RUNS names no directory with runs")


@dataclass(frozen=True)
class Said:
    """What a workload said of a page: who holds it, and how."""

    pfn: int
    kind: str
    pid: int
    fd: int | None


#: What lines begin with -> the kind of holder.
KINDS = {"longpin": "gup_test", "iouring": "io_uring", "dio": "bio", "loop": "bio", "tcp": "socket"}
KINDS |= {"unix": "socket", "tee": "pipe", "aioring": "aio"}


def said(text: str) -> list[Said]:
    """The pages that the workloads hold when the dump is taken, as their lines say."""
    found: list[Said] = []
    piped: list[Said] = []
    drained = 0
    who: dict[str, tuple[int, int]] = {}
    for line in parse_truth(text):
        values = line.values
        fd = int(values["fd"]) if "fd" in values else None
        if line.kind == "drained":
            drained = int(line.text.split()[1])
        elif line.kind == "splice" and "pinned pfn" in line.text:
            piped.append(Said(line.number("pfn"), "pipe", int(values["pid"]), None))
        elif line.kind == "longpinhuge" and "head pfn" in values:
            found.append(Said(line.number("head pfn"), "io_uring", int(values["pid"]), fd))
        elif line.kind in ("longpin", "iouring") and fd is not None:
            who[line.kind] = int(values["pid"]), fd
        elif line.kind in KINDS and "pfn" in values:
            pid, by = who[line.kind] if line.kind in who else (int(values["pid"]), fd)
            # Who waits for its own I/O is found by its stack, not by a file.
            by = None if values.get("how") == "sync" else by
            # Of a large folio, it is its head that is held: one buffer may have several of its pages (6.1).
            pfn = line.number("head pfn" if "head pfn" in values else "pfn")
            found.append(Said(pfn, KINDS[line.kind], pid, by))
    return found + piped[drained:]


@contextmanager
def opened(name: str, dump: str) -> Iterator[tuple[Kernel, Plugins]]:
    """A dump of a run."""
    directory = Path(str(_WHERE)) / name
    plugins = load_plugins(disabled=["*"])
    with open_target(directory / dump, symbols=[directory / "vmlinux"]) as target:
        yield Kernel(target, plugins.page_ext_clients(), plugins.recognisers), plugins


@pytest.fixture(scope="module", params=RUNS, ids=["-".join(each) for each in RUNS])
def run(request: pytest.FixtureRequest) -> tuple[Result, list[Said]]:
    name, dump = request.param
    with opened(name, dump) as (kernel, plugins):
        result = run_one(kernel, plugins.analyses()["pinned"](holders=True))
    return result, said((Path(str(_WHERE)) / name / "truth/truth.txt").read_text())


def _live(result: Result) -> pl.DataFrame:
    frame = result.tables["holders"].frame
    return frame.filter((pl.col("state") == "live") & pl.col("counted").is_in(["reference", "pin"]))


def test_every_holder_is_named_as_its_workload_says(run: tuple[Result, list[Said]]) -> None:
    result, lines = run
    assert lines
    live = _live(result)
    for each in lines:
        rows = live.filter((pl.col("pfn") == each.pfn) & (pl.col("kind") == each.kind))
        by = "" if each.fd is None else rf", fd (\d+, )*{each.fd}\b"
        assert any(
            re.search(rf"pid {each.pid} \([^)]*\){by}", held) for held in rows["held_by"].drop_nulls()
        ), each


def test_nobody_else_holds_what_is_held(run: tuple[Result, list[Said]]) -> None:
    result, lines = run
    known = {each.pfn for each in lines}
    assert set(_live(result)["pfn"]) <= known


def test_no_reference_is_missing_and_none_is_too_many(run: tuple[Result, list[Said]]) -> None:
    balance = run[0].tables["balance"].frame
    assert balance.filter(pl.col("missing") > 0).to_dicts() == []
    assert balance.filter(pl.col("surplus") > 0).to_dicts() == []


def test_a_page_whose_references_are_all_explained_has_no_other_holder(
    run: tuple[Result, list[Said]], request: pytest.FixtureRequest
) -> None:
    with opened(*request.node.callspec.params["run"]) as (kernel, plugins):
        pfns, users = explained_folios(kernel, _MANY)
        asked = tuple(f"{pfn:#x}" for pfn in pfns)
        result = run_one(kernel, plugins.analyses()["holders"](pages=asked))
    balance = result.tables["balance"].frame
    assert len(balance) == _MANY
    assert balance["surplus"].sum() == 0
    assert balance["missing"].sum() == 0
    live = _live(result)
    assert not users & set(live["pfn"])
    # The kernel's own pages have one reference, and whoever was found has it.
    assert set(live["kind"]) <= {"vmalloc", "pipe", "socket", "io_uring"}


def test_the_pages_of_a_ring_are_the_kernels_own(
    run: tuple[Result, list[Said]], request: pytest.FixtureRequest
) -> None:
    """io_pages_map(), io_create_region(): the one reference of its allocation is the ring's."""
    with opened(*request.node.callspec.params["run"]) as (kernel, plugins):
        pfns = ring_pages(kernel)
        if not pfns:
            pytest.skip("this kernel keeps no array of them")
        result = run_one(kernel, plugins.analyses()["holders"](pages=tuple(f"{pfn:#x}" for pfn in pfns)))
    balance = result.tables["balance"].frame
    assert sorted(balance["pfn"]) == sorted(pfns)
    assert (balance["missing"].sum(), balance["surplus"].sum()) == (0, 0)
    live = _live(result).filter(kind="io_uring")
    assert set(live["pfn"]) == set(pfns)
    assert set(live["counted"]) == {"reference"}


def ring_pages(kernel: Kernel) -> list[int]:
    """The pages of all rings that tasks have open, by drgn alone."""
    prog = kernel.target.prog
    found: set[int] = set()
    for task in for_each_task(prog):
        for _, file in for_each_file(task):
            if file.f_op.value_() != prog["io_uring_fops"].address_:
                continue
            ring = Object(prog, "struct io_ring_ctx *", file.private_data)
            for what in ("ring", "sqe", "sq"):
                if hasattr(ring, f"{what}_region"):
                    region = ring.member_(f"{what}_region")
                    pages, count = region.pages, int(region.nr_pages)
                elif hasattr(ring, f"{what}_pages"):
                    pages, count = ring.member_(f"{what}_pages"), int(ring.member_(f"n_{what}_pages"))
                else:
                    continue
                found |= {int(page_to_pfn(pages[index])) for index in range(count if pages else 0)}
    return sorted(found)
