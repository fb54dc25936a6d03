"""Damage: the same seed does the same, within what it was given, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdump_snapshots.writer.damage import Damage, truncate
from mmdump_snapshots.writer.memory import PhysicalMemory

MIB = 1 << 20
TARGETS = {"page array": [(MIB, 2 * MIB)], "zones": [(0x4000, 0x4300), (0x5000, 0x5300)], "nothing": [(7, 7)]}


def direct(phys):
    return phys + 0xFFFF888000000000


def memory():
    made = PhysicalMemory([(0, 4 * MIB)])
    made.write(0, np.arange(MIB, dtype=np.uint32))
    return made


@given(st.integers(0, 1 << 64))
def test_a_seed_damages_memory_the_same_way_and_only_where_it_says(seed):
    subject, other, before = memory(), memory(), memory().read(0, 4 * MIB)
    changes = Damage(seed).memory(subject, TARGETS, address=direct, changes=5)
    assert changes == Damage(seed).memory(other, TARGETS, address=direct, changes=5)
    after = subject.read(0, 4 * MIB)
    assert other.read(0, 4 * MIB) == after
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    for change in changes:
        assert any(start <= change.start and change.end <= end for start, end in TARGETS[change.where])
        changed[change.start : change.end] = False
    assert not changed.any()


def test_list_heads_point_at_themselves():
    subject = memory()
    changes = [
        change
        for seed in range(60)
        for change in Damage(seed).memory(subject, TARGETS, address=direct, changes=1)
        if change.what == "self"
    ]
    assert changes
    last = changes[-1]
    assert subject.read(last.start, 16) == direct(last.start).to_bytes(8, "little") * 2


def test_every_kind_of_damage_happens():
    kinds = {
        change.what
        for seed in range(100)
        for change in Damage(seed).memory(memory(), TARGETS, address=direct, changes=3)
    }
    assert kinds == {"flip", "ones", "zeros", "random", "copy", "self", "pointer"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 64), st.sampled_from([None, {"header": ((0, 64),), "data": ((4096, 100_000),)}]))
def test_a_seed_damages_files_the_same_way(tmp_path, seed, parts):
    contents = np.arange(50_000, dtype=np.uint16).tobytes()
    results = []
    for name in "ab":
        path = tmp_path / name
        path.write_bytes(contents)
        changes = Damage(seed).file(path, parts, changes=4, cut=0.5)
        results.append((path.read_bytes(), changes))
    assert results[0] == results[1]
    after, changes = results[0]
    assert len(after) <= len(contents)
    assert (len(after) < len(contents)) <= (changes[-1].what == "truncate")
    changed = np.frombuffer(contents[: len(after)], np.uint8) != np.frombuffer(after, np.uint8)
    for change in changes:
        if change.what != "truncate":
            changed[change.start : change.end] = False
            assert parts is None or any(s <= change.start and change.end <= e for s, e in parts[change.where])
    assert not changed.any()


def test_a_file_is_cut_off_but_never_made_longer(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(bytes(1000))
    truncate(path, 2000)
    assert path.stat().st_size == 1000
    truncate(path, 10)
    assert path.stat().st_size == 10


def test_there_must_be_something_to_damage():
    with pytest.raises(ValueError, match="nothing to damage"):
        Damage(1).memory(memory(), {"empty": [(5, 5)]}, address=direct)


def test_a_change_says_what_was_done():
    subject = memory()
    (change,) = Damage(4).memory(subject, {"zones": [(0x4000, 0x4001)]}, address=direct, changes=1)
    assert str(change).endswith("of zones at 0x4000, 1 bytes")
