"""The hash table of a stack depot, and the hashes of its stacks."""

from __future__ import annotations

import drgn
import numpy as np
import pytest

from mmdump.kernel.depot_table import follow_chains, hashes
from tests.kernel.depot_builders import TABLE, filled


@pytest.mark.parametrize("old", [False, True])
def test_every_record_is_in_the_chain_of_its_bucket(old: bool) -> None:
    depot = filled(old)
    chains = depot.chains()
    assert chains.reached.all()
    assert chains.lengths.tolist() == np.bincount(depot.records().hash % 8, minlength=8).tolist()
    assert (len(chains.stray), len(chains.misplaced), chains.loops, chains.lost) == (0, 0, 0, 0)


def test_frames_that_were_overwritten_have_another_hash() -> None:
    depot = filled()
    depot.write(50, 32, "<Q", 0x4141414141414141)
    records = depot.records()
    assert np.flatnonzero(hashes(records.frames, records.size) != records.hash).tolist() == [50]


def test_hashes_are_those_of_the_kernel() -> None:
    frames = np.array([0xFFFFFFFF81000000 + index for index in range(3)], np.uint64)
    # jhash2() by the definition, a word at a time.
    words = [
        int(word) for frame in frames for word in (frame & np.uint64(0xFFFFFFFF), frame >> np.uint64(32))
    ]
    assert int(hashes(frames, np.array([3]))[0]) == jhash2(words, 0x9747B28C)
    assert int(hashes(frames[:1], np.array([1]))[0]) == jhash2(words[:2], 0x9747B28C)


def jhash2(words: list[int], initial: int) -> int:
    """include/linux/jhash.h, a word at a time."""
    mask = 0xFFFFFFFF

    def rol(word: int, shift: int) -> int:
        return (word << shift | word >> (32 - shift)) & mask

    a = b = c = (0xDEADBEEF + (len(words) << 2) + initial) & mask
    while len(words) > 3:
        a, b, c = (a + words[0]) & mask, (b + words[1]) & mask, (c + words[2]) & mask
        a = (a - c & mask) ^ rol(c, 4)
        c = c + b & mask
        b = (b - a & mask) ^ rol(a, 6)
        a = a + c & mask
        c = (c - b & mask) ^ rol(b, 8)
        b = b + a & mask
        a = (a - c & mask) ^ rol(c, 16)
        c = c + b & mask
        b = (b - a & mask) ^ rol(a, 19)
        a = a + c & mask
        c = (c - b & mask) ^ rol(b, 4)
        b = b + a & mask
        words = words[3:]
    if not words:
        return c
    rest = [*words, 0, 0][:3]
    a, b, c = (a + rest[0]) & mask, (b + rest[1]) & mask, (c + rest[2]) & mask
    c = ((c ^ b) - rol(b, 14)) & mask
    a = ((a ^ c) - rol(c, 11)) & mask
    b = ((b ^ a) - rol(a, 25)) & mask
    c = ((c ^ b) - rol(b, 16)) & mask
    a = ((a ^ c) - rol(c, 4)) & mask
    b = ((b ^ a) - rol(a, 14)) & mask
    return ((c ^ b) - rol(b, 24)) & mask


def test_a_chain_that_leads_back_into_itself_ends_there() -> None:
    depot = filled()
    records = depot.records()
    bucket = int(records.hash[0] % 8)
    row = int(np.flatnonzero(records.hash % 8 == bucket)[0])
    # The first one saved is the last of its chain.
    depot.write(row, 0, "<Q", depot.address(row))
    chains = depot.chains()
    assert chains.loops == 1
    assert chains.reached.all()


def test_a_chain_that_leads_into_another_is_followed_once() -> None:
    depot = filled()
    records = depot.records()
    first = int(np.flatnonzero(records.hash % 8 == 0)[0])
    other = int(np.flatnonzero(records.hash % 8 == 1)[-1])
    depot.write(first, 0, "<Q", depot.address(other))
    chains = depot.chains()
    assert chains.loops == 1
    assert chains.reached.sum() == 200


def test_a_record_in_another_bucket_than_its_hash_says_is_misplaced() -> None:
    depot = filled()
    depot.heads[2], depot.heads[3] = depot.heads[3], depot.heads[2]
    chains = depot.chains()
    assert set((depot.records().hash[chains.misplaced] % 8).tolist()) == {2, 3}


def test_buckets_that_are_not_in_the_dump_are_counted() -> None:
    chains = filled().chains(TABLE)
    assert (chains.lost, int(chains.lengths.sum())) == (8, 0)


def test_the_length_of_a_table_that_nothing_tells_is_what_its_records_agree_with() -> None:
    """5.12 to 5.19: 1 << CONFIG_STACK_HASH_ORDER, and no symbol for it."""
    depot = filled(old=True)
    records = depot.records()
    heads = np.zeros(1 << 20, np.uint64)
    heads[records.hash & np.uint32((1 << 14) - 1)] = records.address
    kernel = depot.kernel()
    kernel.add(TABLE + (1 << 30), heads.tobytes())
    del kernel.objects["stack_hash_mask"]
    table = kernel.prog.pointer_type(kernel.integer(8))
    kernel.objects["stack_table"] = drgn.Object(kernel.prog, table, value=TABLE + (1 << 30))
    chains = follow_chains(kernel.prog, kernel.reader, depot.state, records)
    assert chains is not None
    assert len(chains.lengths) == 1 << 14


@pytest.mark.parametrize("mask", [0, 6, 1 << 25, (1 << 32) - 1])
def test_a_table_of_an_impossible_length_is_not_read(mask: int) -> None:
    depot = filled()
    kernel = depot.kernel()
    kernel.constant("stack_hash_mask", mask, 4)
    assert follow_chains(kernel.prog, kernel.reader, depot.state, depot.records()) is None
