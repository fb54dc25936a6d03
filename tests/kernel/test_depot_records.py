"""Every stack of a depot, found in its pools, in a depot made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.depot_gaps import REASONS, SATURATED
from mmdump.kernel.depot_records import DepotRecords, read_records
from mmdump.kernel.depot_state import DepotState, read_depot_state
from mmdump.kernel.depot_table import follow_chains
from mmdump.kernel.stackdepot import read_stack_depot_layout
from tests.kernel.depot_builders import TABLE, Depot, chain, filled
from tests.kernel.test_stackdepot import NEW, POOL, POOLS, depot_kernel, handle_of


def frames_of(records: DepotRecords) -> list[tuple[int, ...]]:
    return [
        tuple(records.frames[start : start + size].tolist())
        for start, size in zip(records.starts.tolist(), records.size.tolist(), strict=True)
    ]


def reasons(records: DepotRecords) -> list[tuple[int, int, str]]:
    return [(int(each["pool"]), int(each["offset"]), REASONS[each["reason"]]) for each in records.broken]


@pytest.mark.parametrize("old", [False, True])
def test_all_records_are_found_where_they_were_put(old: bool) -> None:
    depot = filled(old)
    records = depot.records()
    assert (
        list(
            zip(
                records.pool.tolist(),
                records.offset.tolist(),
                frames_of(records),
                records.room.tolist(),
                strict=True,
            )
        )
        == depot.placed
    )
    assert records.address.tolist() == [depot.address(row) for row in range(200)]
    assert (reasons(records), records.lost_bytes) == ([], 0)


def test_records_are_found_by_address_and_by_handle() -> None:
    records = filled().records()
    wanted = np.array([records.address[7], 0, records.address[150] + np.uint64(16)], np.uint64)
    assert records.find(wanted).tolist() == [7, -1, -1]
    assert records.find_handles(np.array([0, records.handle[199]], np.uint32)).tolist() == [-1, 199]


def test_in_6_8_pools_were_counted_from_0() -> None:
    depot = filled()
    for row, (pool, offset, _, _) in enumerate(depot.placed):
        depot.write(row, 24, "<I", handle_of(pool, offset, bias=0))
    records = depot.records()
    # The first record of all has the handle 0, which means none.
    assert frames_of(records) == [frames for _, _, frames, _ in depot.placed[1:]]


def test_a_frame_that_looks_like_a_record_is_none() -> None:
    depot = Depot()
    depot.add(chain(1, 16))
    depot.add(chain(2, 2))
    # Its frames 2 and 3 lie where a record at offset 16 would have its size and its handle.
    inside = handle_of(0, 32)
    depot.write(0, 32 + 20, "<II", 2, inside)
    records = depot.records()
    assert records.offset.tolist() == [0, 160]
    assert reasons(records) == []


def test_a_record_whose_handle_was_overwritten_is_missed_where_it_must_be() -> None:
    depot = filled()
    depot.write(50, 24, "<I", 0xDEAD)
    records = depot.records()
    pool, offset, _, _ = depot.placed[50]
    assert len(records) == 199
    assert reasons(records) == [(pool, offset, REASONS[1])]
    assert depot.address(50) in depot.chains().stray.tolist()


@pytest.mark.parametrize("size", [0, 65, 0xFFFFFFFF])
def test_a_record_of_an_impossible_size_is_named_once(size: int) -> None:
    depot = filled()
    depot.write(50, 20, "<I", size)
    pool, offset, _, _ = depot.placed[50]
    assert reasons(depot.records()) == [(pool, offset, REASONS[0])]


def test_a_pool_without_its_first_and_its_last_record_shows_both() -> None:
    depot = filled()
    last = next(row for row, place in enumerate(depot.placed) if place[0] == 1) - 1
    depot.write(0, 24, "<I", 0)
    depot.write(199, 24, "<I", 0)
    found = reasons(depot.records())
    assert found == [(0, 0, REASONS[1]), (1, depot.placed[199][1], REASONS[1])]
    # The end of a full pool may be empty: less than the largest record is no damage.
    assert depot.placed[last][1] + depot.placed[last][3] < POOL


def test_a_record_that_can_be_given_back_takes_as_much_room_as_the_largest() -> None:
    depot = Depot()
    depot.add(chain(1, 5))
    depot.add(chain(2, 5), count=3, room=544)
    depot.add(chain(3, 5), count=0, room=544)
    depot.add(chain(4, 5), count=7)
    records = depot.records()
    assert records.room.tolist() == [80, 544, 544, 80]
    assert records.returnable.tolist() == [False, True, True, False]
    assert records.count is not None
    assert records.count.tolist() == [SATURATED, 3, 0, 7]
    assert reasons(records) == []


def test_what_lies_behind_the_last_record_was_left_by_somebody_else() -> None:
    depot = filled()
    state = replace(depot.state, pool_offset=depot.placed[198][1])
    records = read_records(depot.kernel().reader, depot.layout, state)
    assert len(records) == 198
    assert reasons(records) == []


def test_a_page_that_is_not_in_the_dump_is_lost_and_not_broken() -> None:
    depot = filled()
    records = depot.records(POOLS[0] + 4096)
    assert records.lost_bytes == 4096
    inside = [each for each in depot.placed if each[0] or each[1] + each[3] <= 4096 or each[1] >= 8192]
    assert frames_of(records) == [frames for _, _, frames, _ in inside]
    assert reasons(records) == []


def test_the_depots_variables_are_found_by_their_names_of_each_era() -> None:
    kernel = depot_kernel(parts=NEW)
    record = {"hash_list": (kernel.prog.array_type(kernel.integer(8), 2), 0), "hash": (kernel.integer(4), 16)}
    record |= {
        "size": (kernel.integer(4), 20),
        "handle": (kernel.integer(4), 24),
        "count": (kernel.integer(4), 28),
    }
    record["entries"] = (kernel.prog.array_type(kernel.integer(8), 64), 32)
    kernel.struct("stack_record", 544, record)
    kernel.constant("pool_offset", 4096)
    layout = read_stack_depot_layout(kernel.prog, kernel.reader)
    assert layout is not None
    state = read_depot_state(kernel.prog, layout)
    assert state == DepotState(
        limit=16, used=3, pool_offset=4096, link_offset=0, lists=True, hash_offset=16, count_offset=28
    )
    kernel.constant("stack_max_pools", 1024, 4)
    kernel.constant("pool_offset", POOL + 1)
    state = read_depot_state(kernel.prog, layout)
    assert state is not None
    assert (state.limit, state.pool_offset) == (1024, None)


@given(st.integers(0, 1 << 32), st.integers(0, 3), st.integers(0, POOL), st.booleans(), st.booleans())
def test_any_bytes_are_walked_to_an_end(seed: int, used: int, offset: int, old: bool, noisy: bool) -> None:
    depot = filled(old)
    noise = np.random.default_rng(seed)
    for pool in depot.pools:
        where = noise.integers(0, POOL, 40)
        for at in where.tolist():
            pool[at] = int(noise.integers(0, 256))
        if noisy:
            pool[:] = noise.bytes(POOL)
    depot.heads = [int(each) for each in noise.choice([0, 1, depot.address(5), depot.address(90), TABLE], 8)]
    kernel = depot.kernel(POOLS[1] + 4096)
    state = replace(depot.state, used=used, pool_offset=offset)
    records = read_records(kernel.reader, depot.layout, state)
    assert len(records.frames) == records.size.sum()
    ends = records.pool * POOL + records.offset + records.room
    assert (ends[:-1] <= (records.pool * POOL + records.offset)[1:]).all()
    chains = follow_chains(kernel.prog, kernel.reader, state, records)
    assert chains is not None
    assert chains.lengths.sum() == chains.reached.sum() <= len(records)
