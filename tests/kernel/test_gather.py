"""Many small reads at once, and the XArray walk: what they find, and what they do when there is nothing."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.gather import gather
from mmdump.kernel.xarray import Truncated, xarray_entries
from mmdump.target import ReadStatus
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.writer.image import Image, build
from tests.kernel.builders import PAGE_SIZE, Kernelish

BASE = 0xFFFF888000000000
#: Three pages with a hole, far away three more.
SMALL = np.random.default_rng(1).integers(0, 256, 3 * PAGE_SIZE, np.uint8).tobytes()
LARGE = np.random.default_rng(2).integers(0, 256, 700 * PAGE_SIZE, np.uint8).tobytes()
FAR = BASE + (1 << 32)


def _memory() -> Kernelish:
    return Kernelish({BASE: SMALL, FAR: LARGE}, holes=[BASE + PAGE_SIZE])


@given(
    st.lists(
        st.integers(0, len(SMALL) - 16).map(lambda at: BASE + at)
        | st.integers(0, len(LARGE) - 16).map(lambda at: FAR + at)
        | st.sampled_from([0, BASE - 8, BASE + len(SMALL) - 8, (1 << 64) - 4, 0x1234567890]),
        max_size=60,
    )
)
def test_each_address_has_its_own_bytes_or_says_that_it_has_none(addresses: list[int]) -> None:
    found, status = gather(_memory().reader, np.array(addresses, np.uint64), np.dtype("V16"))
    for address, item, read in zip(addresses, found, status.tolist(), strict=True):
        expected = None
        for base, memory in ((BASE, SMALL), (FAR, LARGE)):
            inside = base <= address and address + 16 <= base + len(memory)
            hole = base == BASE and address - base + 16 > PAGE_SIZE and address - base < 2 * PAGE_SIZE
            if inside and not hole:
                expected = memory[address - base : address - base + 16]
        assert (read == ReadStatus.READ) == (expected is not None)
        assert item.tobytes() == (expected or bytes(16))


def test_reads_are_few_where_addresses_are_close() -> None:
    kernel = _memory()
    reads = []
    reader = kernel.reader

    class Counting:
        def read(self, address: int, size: int) -> object:
            reads.append(size)
            return reader.read(address, size)

    addresses = np.uint64(FAR) + np.arange(0, 600 * PAGE_SIZE, 96, dtype=np.uint64)
    found, status = gather(Counting(), addresses[::-1], np.dtype("<u8"))  # type: ignore[arg-type]
    assert (status == ReadStatus.READ).all()
    assert found[::-1].tolist() == [
        int.from_bytes(LARGE[at : at + 8], "little") for at in range(0, 600 * PAGE_SIZE, 96)
    ]
    assert len(reads) < 10


def _tree(image: Image, slots: dict[int, int], shift: int = 0, depth: int = 1) -> tuple[int, int]:
    """A node in unused memory of an image: its address, and its entry."""
    types = image.profile.types
    at = image.addresses.direct((32 << 20) + depth * 4096)
    raw = bytearray(types.sizeof("struct xa_node"))
    raw[types.member("struct xa_node", "shift").offset] = shift
    first = types.member("struct xa_node", "slots").offset
    for slot, entry in slots.items():
        raw[first + 8 * slot : first + 8 * slot + 8] = struct.pack("<Q", entry)
    image.memory.write(image.addresses.phys(at), bytes(raw))
    return at, at | 2


@pytest.fixture(scope="module")
def image() -> Image:
    machine = Machine(profile("6.12").era, memory=64 << 20, boot=Boot(mem_profiling=True))
    return build(machine, profile("6.12"))


def _entries(image: Image, head: int, limit: int = 1000) -> tuple[list[tuple[int, int]], int]:
    from drgn import Object

    prog = image.program()
    raw = bytearray(image.profile.types.sizeof("struct xarray"))
    at = image.profile.types.member("struct xarray", "xa_head").offset
    raw[at : at + 8] = struct.pack("<Q", head)
    truncated = Truncated()
    array = Object.from_bytes_(prog, prog.type("struct xarray"), bytes(raw))
    return list(xarray_entries(array, limit, truncated)), truncated.lost


def test_a_tree_is_walked_in_order(image: Image) -> None:
    _, low = _tree(image, {0: 0x1000, 3: 0x1008}, depth=1)
    _, high = _tree(image, {63: 0x2000}, depth=2)
    _, head = _tree(image, {0: low, 2: high}, shift=6, depth=3)
    assert _entries(image, head) == ([(0, 0x1000), (3, 0x1008), (2 * 64 + 63, 0x2000)], 0)
    assert _entries(image, 0) == ([], 0)
    # One entry at index 0 needs no node; the XArray's own marks (retry, sibling) are no entries.
    assert _entries(image, 0x3000) == ([(0, 0x3000)], 0)
    _, marked = _tree(image, {0: 0x1000, 1: 2, 2: 256 << 2 | 2}, depth=4)
    assert _entries(image, marked) == ([(0, 0x1000)], 0)


def test_a_tree_that_is_none_has_an_end(image: Image) -> None:
    # A node that leads to itself, and one that is nowhere.
    at, head = _tree(image, {}, shift=6, depth=5)
    _, circle = _tree(image, dict.fromkeys(range(64), head), shift=6, depth=5)
    assert _entries(image, circle) == ([], 64)
    _, lost = _tree(image, {0: 0x1000, 1: 0xDEAD000000000002}, shift=6, depth=6)
    assert _entries(image, lost) == ([(0, 0x1000)], 1)
    _, many = _tree(image, dict.fromkeys(range(64), 0x1000), depth=7)
    found, more = _entries(image, many, limit=10)
    assert len(found) < 10
    assert more
    assert at
