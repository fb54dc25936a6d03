"""Pipes on every kernel: what ``mmdump holders`` says is what the machine knows."""

from __future__ import annotations

from functools import cache

import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.mm import Mm
from mmdump_snapshots.model.pipe import PIPE_DEF_BUFFERS, Pipe
from mmdump_snapshots.writer.image import build
from tests.snapshots.machines import PROFILES


@cache
def plugins():
    return load_plugins(disabled=["*"])


class Spliced:
    """Two processes with a pipe each; the second has the first one's pages too, and some were consumed."""

    def __init__(self, name: str) -> None:
        kernel = profile(name)
        machine = Machine(kernel.era, arch=kernel.arch, memory=128 << 20)
        first, second = machine.task("first", pid=300), machine.task("second", pid=301)
        mm = Mm(machine, first)
        vma = mm.mmap(64)
        for slot in range(12):
            mm.fault(vma, slot)
        self.pages = [vma.mapped(slot) for slot in range(12)]
        one, two = Pipe(machine, first), Pipe(machine, second)
        one.vmsplice(vma, 0, 12)
        one.tee(two)
        one.read(5)
        # The ring has gone round.
        one.vmsplice(vma, 0, 5)
        two.read(12)
        self.kernel = Kernel(build(machine, kernel, kaslr=7).target(), plugins().page_ext_clients())

    def holders(self) -> Result:
        asked = tuple(f"{pfn:#x}" for pfn in self.pages)
        return run_one(self.kernel, plugins().analyses()["holders"](pages=asked))


@pytest.mark.parametrize("name", PROFILES)
def test_a_pipe_is_named_by_its_process_and_what_was_consumed_is_stale(name: str) -> None:
    machine = Spliced(name)
    result = machine.holders()
    frame = result.tables["holders"].frame.filter(pl.col("kind") == "pipe")
    live, stale = frame.filter(pl.col("state") == "live"), frame.filter(pl.col("state") == "stale")
    assert sorted(live["pfn"]) == sorted(machine.pages)
    assert set(live["held_by"]) == {"pid 300 (first), fd 3, 4"}
    # Five pages left the first slots and came back further on; all twelve passed through the other pipe.
    slots = {int(what.split()[1]) for what in live["what"]}
    assert slots == {*range(5, PIPE_DEF_BUFFERS), 0}
    assert sorted(stale.filter(pl.col("held_by") == "pid 301 (second), fd 3, 4")["pfn"]) == sorted(
        machine.pages
    )
    balance = result.tables["balance"].frame
    assert balance["found"].to_list() == [1] * 12
    assert balance["missing"].sum() == balance["surplus"].sum() == 0
    assert not result.incomplete
