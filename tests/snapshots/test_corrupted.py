"""What is damaged in a machine's memory, and that it is the same again for the same seed."""

from __future__ import annotations

import pytest

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.targets import targets
from tests.snapshots.machines import PROFILES, busy

CORRUPTED = next(each for each in SCENARIOS if each.name == "corrupted")
EVERYWHERE = {
    "page array", "page_ext", "stack depot", "depot hash table", "page tables", "memory sections",
    "nodes and zones", "kernel data", "kernel rodata", "per-CPU areas", "CMA areas",
}  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
def test_all_metadata_of_a_machine_is_found_in_its_memory(name):
    _, image = busy(name)
    found = targets(image)
    assert found.keys() == EVERYWHERE
    for what, ranges in found.items():
        assert all(start < end for start, end in ranges), what
        assert any(any(image.memory.read(start, end - start)) for start, end in ranges), what


def test_a_corrupted_machine_is_the_same_for_the_same_seed():
    one, same, other = (CORRUPTED.image(profile("6.12"), memory=128 << 20, seed=seed) for seed in (5, 5, 6))
    ranges = [each for parts in targets(one).values() for each in parts]

    def contents(image):
        return [image.memory.read(start, end - start) for start, end in ranges]

    assert contents(one) == contents(same)
    assert contents(one) != contents(other)
