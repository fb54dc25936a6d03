"""Whatever processes do, on every kernel: what ``mmdump pinned`` decodes is what the machine knows."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.scan import run_one
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.model.truth_mapcount import folio_mappings
from mmdump_snapshots.model.truth_pinned import pinned_pages
from mmdump_snapshots.writer.image import build
from tests.snapshots.machines import PROFILES
from tests.snapshots.rmap_steps import WHAT, Life

#: What leaves something to be found.
LASTING = [*(what for what in WHAT if what not in ("exit", "truncate")), "pin", "pin", "get", "mlock", "huge"]
FACTS = ("pfn", "head_pfn", "order", "state", "refcount", "mapcount", "pincount", "excess", "owner_comm")


@cache
def plugins():
    return load_plugins(disabled=["*"])


def after_a_life(name: str, seed: int, steps: int = 300) -> Machine:
    """A machine on which processes did this and that."""
    kernel, random = profile(name), Random(seed)
    boot = Boot(cma=(("reserved", 32 << 20),))
    machine = Machine(kernel.era, arch=kernel.arch, memory=192 << 20, boot=boot)
    life = Life(machine)
    for _ in range(steps):
        life.do(random.choice(LASTING), random.randrange(1 << 16), random.randrange(1 << 16))
    return machine


@pytest.mark.parametrize("name", [each for each in PROFILES if not each.endswith("16k")])
@given(seed=st.integers(0, 1 << 16))
@settings(max_examples=3)
def test_pinned_is_the_machines_truth(name, seed):
    machine = after_a_life(name, seed)
    image = build(machine, profile(name), kaslr=seed)
    kernel = Kernel(image.target(), plugins().page_ext_clients())
    found = run_one(kernel, plugins().analyses()["pinned"]()).tables["pages"].frame
    assert {tuple(row[fact] for fact in FACTS) for row in found.iter_rows(named=True)} == {
        tuple(getattr(page, fact) for fact in FACTS) for page in pinned_pages(machine)
    }
    truth = folio_mappings(machine)
    for start, end in kernel.memmap.chunks():
        pages = kernel.pages(start, end, blocks=False)
        mappings = {head: each for head, each in truth.items() if start <= head < end}
        heads = np.array(sorted(mappings), np.int64) - start
        counted = pages.folio_mapcount(heads).tolist() if len(heads) else []
        assert counted == [mappings[head].mapcount for head in sorted(mappings)]
