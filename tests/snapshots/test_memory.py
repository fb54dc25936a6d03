"""Physical memory: what is written is what is read, whatever the order, size and form of the writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump_snapshots.writer.memory import BLOCK, Bump, NotRamError, PhysicalMemory

RAM = [(0x1000, 0x9F000), (0x100000, 0x200000)]
KIB = 1024


def pattern(offset, size):
    return ((np.arange(offset, offset + size, dtype=np.uint64) * 2654435761) >> 13).astype(np.uint8)


def test_what_was_never_written_is_zero():
    memory = PhysicalMemory(RAM)
    assert memory.read(0x1000, 64) == bytes(64)
    assert list(memory.extents()) == []
    assert memory.is_empty(0, 1 << 30)


def test_there_is_nothing_outside_ram():
    memory = PhysicalMemory(RAM)
    with pytest.raises(NotRamError) as caught:
        memory.read(0, 8)
    assert caught.value.address == 0
    with pytest.raises(NotRamError) as caught:
        memory.write(0x9EFFC, bytes(8))
    assert caught.value.address == 0x9F000
    with pytest.raises(NotRamError):
        memory.write_lazy(0x1FF000, 0x2000, pattern)
    assert memory.is_empty(0, memory.end)


def test_adjacent_ranges_of_ram_are_one():
    memory = PhysicalMemory([(0x3000, 0x5000), (0x1000, 0x3000)])
    assert memory.ram == ((0x1000, 0x5000),)
    memory.write(0x2FFC, b"12345678")
    assert memory.read(0x2FFC, 8) == b"12345678"
    with pytest.raises(ValueError, match="overlaps"):
        PhysicalMemory([(0, 0x2000), (0x1000, 0x3000)])


def test_large_arrays_are_kept_without_a_copy_and_never_changed():
    memory = PhysicalMemory(RAM)
    data = pattern(0, 256 * KIB).copy()
    before = data.tobytes()
    memory.write(0x100000, data)
    assert np.shares_memory(memory.array(0x100000, len(data)), data)
    memory.write(0x101001, b"changed")
    assert memory.read(0x101001, 7) == b"changed"
    assert data.tobytes() == before


def test_arrays_of_any_dtype_are_their_bytes():
    memory = PhysicalMemory(RAM)
    memory.write(0x2000, np.array([1, 2], dtype="<u4"))
    assert memory.read(0x2000, 8) == bytes([1, 0, 0, 0, 2, 0, 0, 0])
    rows = np.zeros(3, dtype=[("flags", "<u8"), ("count", "<i4"), ("order", "u1")])
    rows["count"] = -1
    memory.write(0x3000, rows)
    assert memory.read(0x3000, rows.nbytes) == rows.tobytes()


def test_a_lazy_extent_is_made_piece_by_piece_in_order():
    asked = []

    def make(offset, size):
        asked.append((offset, size))
        return pattern(offset, size)

    memory = PhysicalMemory([(0, 64 << 20)])
    memory.write_lazy(5 << 20, 20 << 20, make)
    assert asked == []
    out = b"".join(data.tobytes() for _, data in memory.extents())
    assert out == pattern(0, 20 << 20).tobytes()
    assert max(size for _, size in asked) == 4 << 20
    assert asked == sorted(asked)


def test_a_lazy_extent_can_be_written_into():
    memory = PhysicalMemory([(0, 16 << 20)])
    memory.write_lazy(1 << 20, 8 << 20, pattern)
    memory.write((1 << 20) + 5000, b"x" * 100)
    expected = bytearray(pattern(0, 8 << 20).tobytes())
    expected[5000:5100] = b"x" * 100
    assert memory.read(1 << 20, 8 << 20) == expected


def test_windows_cover_all_ram_once_and_say_what_is_untouched():
    memory = PhysicalMemory(RAM)
    memory.write(0x150000, b"here")
    windows = list(memory.windows(0x20000))
    assert sum(end - start for start, end, _ in windows) == sum(end - start for start, end in RAM)
    assert [start for start, _, data in windows if data is not None] == [0x140000]


def test_a_bump_allocator_aligns_and_ends():
    bump = Bump(0x1001, 0x3000)
    assert bump(1, 1) == 0x1001
    assert bump(0x1000, 0x1000) == 0x2000
    with pytest.raises(MemoryError):
        bump(1)


write = st.tuples(
    st.integers(0, 0x200000),
    st.one_of(st.integers(1, 64), st.integers(1, 3 * BLOCK)),
    st.sampled_from(["bytes", "array", "lazy"]),
    st.integers(0, 1 << 20),
)


@given(st.lists(write, max_size=25))
def test_it_reads_as_a_plain_array_does(writes):
    memory = PhysicalMemory(RAM)
    plain = np.zeros(0x200000, np.uint8)
    for phys, size, form, salt in writes:
        data = pattern(salt, size)
        try:
            if form == "lazy":
                memory.write_lazy(phys, size, lambda offset, count, salt=salt: pattern(salt + offset, count))
            else:
                memory.write(phys, data.tobytes() if form == "bytes" else data)
        except NotRamError:
            assert not any(start <= phys and phys + size <= end for start, end in RAM)
            continue
        plain[phys : phys + size] = data
    for start, end in RAM:
        assert memory.read(start, end - start) == plain[start:end].tobytes()
        assert memory.read(start + 4097, 9999) == plain[start + 4097 : start + 4097 + 9999].tobytes()
    seen = np.zeros(0x200000, np.uint8)
    last = 0
    for phys, data in memory.extents():
        assert phys >= last
        seen[phys : phys + len(data)] = data
        last = phys + len(data)
    assert np.array_equal(seen, plain)
