"""Who holds pages on the test bed's kernels, against what the workloads said that they did.

MMDUMP_TESTBED_RUNS names a directory with runs of kernel-config/testbed, each named like its kernel.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump.target import open_target
from testbed.truth import parse_truth

_WHERE = os.environ.get("MMDUMP_TESTBED_RUNS")
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
    head: int | None = None
    """Of its large folio: one reference may be for several of its pages, as in a pipe before 6.5."""


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
            head = line.number("head pfn") if "head pfn" in values else None
            found.append(Said(line.number("pfn"), KINDS[line.kind], pid, by, head))
    return found + piped[drained:]


@pytest.fixture(scope="module", params=RUNS, ids=["-".join(each) for each in RUNS])
def run(request: pytest.FixtureRequest) -> tuple[Result, list[Said]]:
    name, dump = request.param
    directory = Path(str(_WHERE)) / name
    plugins = load_plugins(disabled=["*"])
    with open_target(directory / dump, symbols=[directory / "vmlinux"]) as target:
        kernel = Kernel(target, plugins.page_ext_clients(), plugins.recognisers)
        result = run_one(kernel, plugins.analyses()["pinned"](holders=True))
    return result, said((directory / "truth/truth.txt").read_text())


def _live(result: Result) -> pl.DataFrame:
    frame = result.tables["holders"].frame
    return frame.filter((pl.col("state") == "live") & pl.col("counted").is_in(["reference", "pin"]))


def test_every_holder_is_named_as_its_workload_says(run: tuple[Result, list[Said]]) -> None:
    result, lines = run
    assert lines
    live = _live(result)
    for each in lines:
        # A page of a large folio may be meant.
        meant = (pl.col("pfn") == each.pfn) | (pl.col("page") == each.pfn)
        meant = pl.col("pfn") == each.head if not live.filter(meant).height else meant
        rows = live.filter(meant & (pl.col("kind") == each.kind))
        by = "" if each.fd is None else rf", fd (\d+, )*{each.fd}\b"
        assert any(
            re.search(rf"pid {each.pid} \([^)]*\){by}", held) for held in rows["held_by"].drop_nulls()
        ), each


def test_nobody_else_holds_what_is_held(run: tuple[Result, list[Said]]) -> None:
    result, lines = run
    known = {each.pfn for each in lines}
    for row in _live(result).iter_rows(named=True):
        assert {row["pfn"], row["page"]} & known, row


def test_no_reference_is_missing_and_none_is_too_many(run: tuple[Result, list[Said]]) -> None:
    balance = run[0].tables["balance"].frame
    assert balance.filter(pl.col("missing") > 0).to_dicts() == []
    assert balance.filter(pl.col("surplus") > 0).to_dicts() == []
