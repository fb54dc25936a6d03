"""Stacks from handles, in a depot made by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UnsupportedError
from mmdump.kernel.stackdepot import StackDepot, StackDepotLayout, StackStatus, read_stack_depot_layout
from tests.kernel.builders import Kernelish

POOL = 16384
POOLS = (0xFFFF888000100000, 0xFFFF888000200000, 0xFFFF888000300000)
LAYOUT = StackDepotLayout(
    pools=POOLS,
    index_bits=17,
    offset_bits=10,
    biases=(1, 0),
    size_offset=20,
    handle_offset=24,
    entries_offset=32,
    order="<",
)


def handle_of(pool: int, offset: int, *, bias: int = 1, extra: int = 0) -> int:
    return (pool + bias) | offset >> 4 << 17 | extra << 27


class Depot:
    """Pools in memory, and records in them."""

    def __init__(self, *, bias: int = 1, layout: StackDepotLayout = LAYOUT) -> None:
        self.pools = [bytearray(POOL) for _ in POOLS]
        self.bias = bias
        self.layout = layout

    def record(
        self,
        pool: int,
        offset: int,
        frames: Sequence[int],
        *,
        size: int | None = None,
        own: int | None = None,
        extra: int = 0,
    ) -> int:
        """Write a record; what it says of itself may be untrue. Returns its handle."""
        handle = handle_of(pool, offset, bias=self.bias, extra=extra)
        raw = struct.pack(
            "<16xIIII", 0xABCD, len(frames) if size is None else size, handle if own is None else own, 3
        )
        raw += struct.pack(f"<{len(frames)}Q", *frames)
        self.pools[pool][offset : offset + len(raw)] = raw
        del self.pools[pool][POOL:]
        return handle

    def open(self, *holes: int, layout: StackDepotLayout | None = None) -> StackDepot:
        memory = {at: bytes(pool) for at, pool in zip(POOLS, self.pools, strict=True)}
        return StackDepot(Kernelish(memory, holes).reader, layout or self.layout)


FRAMES = (0xFFFFFFFF81000010, 0xFFFFFFFF81000020, 0xFFFFFFFFC0000030)


@pytest.mark.parametrize("bias", [0, 1])
@pytest.mark.parametrize("biases", [(1, 0), (0, 1)])
def test_the_record_says_itself_how_its_pool_is_counted(bias: int, biases: tuple[int, ...]) -> None:
    depot = Depot(bias=bias)
    first = depot.record(0, 32, FRAMES)
    second = depot.record(1, 32, FRAMES[::-1])
    opened = depot.open(layout=replace(LAYOUT, biases=biases))
    assert (opened.stack(first).frames, opened.stack(first).status) == (FRAMES, StackStatus.OK)
    assert opened.stack(second).frames == FRAMES[::-1]


def test_the_extra_bits_of_a_handle_are_its_users() -> None:
    depot = Depot()
    handle = depot.record(1, 512, FRAMES)
    opened = depot.open()
    for extra in (0, 1, 31):
        stack = opened.stack(handle | extra << 27)
        assert (stack.frames, stack.handle) == (FRAMES, handle)
    # A record may keep the extra bits of the one who made it (KMSAN).
    other = depot.record(1, 1024, FRAMES, extra=5)
    assert depot.open().stack(other).status is StackStatus.OK


def test_stacks_come_in_the_order_of_their_handles() -> None:
    depot = Depot()
    handles = [depot.record(0, 64 * index, FRAMES[:index]) for index in (1, 2, 3)]
    found = depot.open().stacks([handles[2], handles[0], handles[2]])
    assert [len(stack.frames) for stack in found] == [3, 1, 3]


def test_nothing_was_recorded_at_handle_0() -> None:
    opened = Depot().open()
    assert opened.stack(0).status is StackStatus.NONE
    assert opened.stack(31 << 27).status is StackStatus.NONE


@pytest.mark.parametrize("size", [0, 65, 1 << 31, 0xFFFFFFFF])
def test_a_record_of_an_impossible_size_is_none(size: int) -> None:
    depot = Depot()
    handle = depot.record(0, 64, FRAMES, size=size)
    stack = depot.open().stack(handle)
    assert (stack.status, stack.frames) == (StackStatus.NOT_A_RECORD, ())


def test_a_record_has_as_many_frames_as_the_depot_allows() -> None:
    depot = Depot()
    frames = tuple(range(1, 65))
    assert depot.open().stack(depot.record(0, 0, frames)).status is StackStatus.NOT_A_RECORD
    handle = depot.record(0, 64, frames)
    assert depot.open().stack(handle).frames == frames


def test_what_says_another_handle_of_itself_is_no_record() -> None:
    depot = Depot()
    handle = depot.record(0, 64, FRAMES, own=handle_of(0, 80))
    assert depot.open().stack(handle).status is StackStatus.NOT_A_RECORD


def test_a_record_ends_with_its_pool() -> None:
    depot = Depot()
    last = depot.record(2, POOL - 48, FRAMES[:2])
    assert depot.open().stack(last).frames == FRAMES[:2]
    over = depot.record(2, POOL - 48, FRAMES[:2], size=3)
    assert depot.open().stack(over).status is StackStatus.NOT_A_RECORD
    assert depot.open().stack(handle_of(2, POOL - 16)).status is StackStatus.BAD_HANDLE


@pytest.mark.parametrize("pool", [3, 100, (1 << 17) - 2])
def test_a_pool_that_the_depot_does_not_have_is_a_bad_handle(pool: int) -> None:
    layout = replace(LAYOUT, biases=(1,))
    assert Depot().open(layout=layout).stack(handle_of(pool, 64)).status is StackStatus.BAD_HANDLE


def test_a_pool_at_address_0_is_none() -> None:
    layout = replace(LAYOUT, pools=(0, 0, 0))
    assert Depot().open(layout=layout).stack(handle_of(1, 64)).status is StackStatus.BAD_HANDLE


def test_in_a_depot_without_pools_no_handle_is_good() -> None:
    opened = Depot().open(layout=replace(LAYOUT, pools=()))
    assert {opened.stack(handle).status for handle in (1, 2, 0x20001)} == {StackStatus.BAD_HANDLE}


def test_a_record_whose_page_is_not_in_the_dump_is_unreadable() -> None:
    depot = Depot()
    handle = depot.record(1, 4096 + 64, FRAMES)
    # The same place in the next pool is something else: that does not make this one no record.
    assert depot.open(POOLS[1] + 4096).stack(handle).status is StackStatus.UNREADABLE


def test_a_record_that_ends_before_a_missing_page_is_read() -> None:
    depot = Depot()
    handle = depot.record(1, 4096 - 64, FRAMES)
    assert depot.open(POOLS[1] + 4096).stack(handle).frames == FRAMES
    longer = depot.record(1, 4096 - 64, range(1, 6))
    assert depot.open(POOLS[1] + 4096).stack(longer).status is StackStatus.UNREADABLE


def test_a_pool_at_the_end_of_the_address_space_is_unreadable() -> None:
    layout = replace(LAYOUT, pools=((1 << 64) - 64,) * 3)
    assert Depot().open(layout=layout).stack(handle_of(1, 4096)).status is StackStatus.UNREADABLE


SIZES = st.sampled_from([0, 1, 3, 63, 64, 65, 1 << 31]) | st.integers(0, 70)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 1 << 32))
def test_any_handle_into_any_bytes_gives_a_stack(handle: int, seed: int) -> None:
    depot = Depot()
    noise = np.random.default_rng(seed)
    depot.pools = [bytearray(noise.bytes(POOL)) for _ in POOLS]
    stack = depot.open(POOLS[2] + 4096).stack(handle)
    assert isinstance(stack.status, StackStatus)
    assert bool(stack.frames) == (stack.status is StackStatus.OK)
    assert stack.handle == handle & LAYOUT.mask


@given(st.integers(0, 2), st.integers(0, 1023), SIZES, st.integers(0, 31), st.sampled_from([0, 1]))
def test_a_record_of_any_size_anywhere_is_read_within_its_pool_or_not_at_all(
    pool: int, place: int, size: int, extra: int, bias: int
) -> None:
    depot = Depot(bias=bias)
    offset = place * 16
    handle = depot.record(pool, offset, range(1, 65), size=size)
    del depot.pools[pool][POOL:]
    stack = depot.open().stack(handle | extra << 27)
    if 0 < size <= 64 and offset + 32 + 8 * size <= POOL and handle:
        assert stack.frames == tuple(range(1, size + 1))
    else:
        assert not stack.frames
        assert stack.status is not StackStatus.OK


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 26), st.integers(1, 64)), max_size=20))
def test_every_record_that_was_written_is_found_again(records: list[tuple[int, int, int]]) -> None:
    depot = Depot()
    written = {}
    for pool, place, frames in records:
        chain = tuple(0xFFFFFFFF81000000 + index for index in range(frames))
        written[depot.record(pool, place * 560 & ~15, chain)] = chain
    opened = depot.open()
    for handle, chain in written.items():
        assert opened.stack(handle).frames == chain


# Finding the depot


def depot_kernel(
    *, parts: Sequence[tuple[str, int]], pointer: bool = False, count: int | None = 3, hash_list: bool = True
) -> Kernelish:
    table = struct.pack("<3Q", *POOLS) + bytes(4096)
    kernel = Kernelish({0xFFFF888000000000: table})
    prog = kernel.prog
    void = prog.pointer_type(prog.void_type())
    members, bit = [], 0
    for name, width in parts:
        word = drgn.Object(prog, kernel.integer(4), value=0, bit_field_size=width)
        members.append(drgn.TypeMember(word, name, bit))
        bit += width
    anonymous = prog.struct_type(None, 4, members)
    kernel.types["union handle_parts"] = prog.union_type(
        "handle_parts",
        4,
        [drgn.TypeMember(kernel.integer(4), "handle", 0), drgn.TypeMember(anonymous, None, 0)],
    )
    record = {"size": (kernel.integer(4), 20), "handle": (kernel.integer(4), 24)}
    record["entries"] = (prog.array_type(kernel.integer(8), 64), 32)
    if hash_list:
        record["hash_list"] = (prog.array_type(kernel.integer(8), 2), 0)
    kernel.struct("stack_record", 544, record)
    if pointer:
        kernel.objects["stack_pools"] = drgn.Object(prog, prog.pointer_type(void), value=0xFFFF888000000000)
    else:
        kernel.variable("stack_pools", prog.array_type(void, 16), 0xFFFF888000000000)
    if count is not None:
        kernel.objects["pools_num"] = drgn.Object(prog, kernel.integer(4, signed=True), value=count)
    return kernel


NEW = (("pool_index_plus_1", 17), ("offset", 10), ("extra", 5))


@pytest.mark.parametrize("pointer", [False, True])
def test_the_depot_is_found_as_an_array_and_as_a_pointer_to_one(pointer: bool) -> None:
    kernel = depot_kernel(parts=NEW, pointer=pointer)
    assert read_stack_depot_layout(kernel.prog, kernel.reader) == LAYOUT


def test_an_older_name_of_the_pool_index_is_tried_as_it_was_meant_first() -> None:
    kernel = depot_kernel(parts=(("pool_index", 16), ("offset", 10), ("valid", 1), ("extra", 5)))
    layout = read_stack_depot_layout(kernel.prog, kernel.reader)
    assert (layout.index_bits, layout.offset_bits, layout.biases) == (16, 10, (0, 1))


@pytest.mark.parametrize("count", [0, -1, 17, 1 << 30, None])
def test_a_count_of_pools_that_cannot_be_true_is_that_of_the_array(count: int | None) -> None:
    kernel = depot_kernel(parts=NEW, count=count)
    layout = read_stack_depot_layout(kernel.prog, kernel.reader)
    assert layout.pools == POOLS + (0,) * 13


@pytest.mark.parametrize("count", [0, -1, (1 << 21) + 1])
def test_behind_a_pointer_there_is_no_array_to_fall_back_on(count: int) -> None:
    kernel = depot_kernel(parts=NEW, count=count, pointer=True)
    assert read_stack_depot_layout(kernel.prog, kernel.reader).pools == ()


def test_a_kernel_without_a_depot_has_none_and_an_unknown_one_is_an_error() -> None:
    kernel = Kernelish()
    assert read_stack_depot_layout(kernel.prog, kernel.reader) is None
    unknown = depot_kernel(parts=(("page", 16), ("offset", 10)))
    with pytest.raises(UnsupportedError):
        read_stack_depot_layout(unknown.prog, unknown.reader)
