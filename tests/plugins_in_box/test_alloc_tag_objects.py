"""Slab objects and per-CPU areas by allocation tag, on structures made by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from mmdump.target import Reader
from mmdump_alloc_tags.slabs import SlabReader
from tests.kernel.builders import PAGE_SIZE, STRUCT_PAGE, VMEMMAP, Kernelish

CACHES = 0xFFFF888000000000
VECTORS = 0xFFFF888000100000
TAG = 0xFFFFFFFF82000000

SLAB = {"names": ["slab_cache", "word", "obj_exts"], "formats": ["<u8"] * 3, "offsets": [8, 40, 56]}


def _reader(memory: dict[int, bytes], *, stride: bool = False) -> SlabReader:
    fields = {name: list(value) for name, value in SLAB.items()}
    if stride:
        fields["names"].append("stride")
        fields["formats"].append("<u4")
        fields["offsets"].append(44)
    return SlabReader(
        reader=Kernelish(memory).reader,
        vmemmap=VMEMMAP,
        struct_page=STRUCT_PAGE,
        page_shift=12,
        slab=np.dtype({**fields, "itemsize": STRUCT_PAGE}),
        cache=np.dtype({"names": ["size"], "formats": ["<u4"], "offsets": [24], "itemsize": 28}),
        objects=(16, 0x7FFF),
        stride=16,
        tag=8,
        flags_mask=7,
        pointer=np.dtype("<u8"),
    )


def _page(cache: int, objects: int, vector: int, stride: int = 0) -> bytes:
    raw = bytearray(STRUCT_PAGE)
    raw[8:16] = struct.pack("<Q", cache)
    raw[40:48] = struct.pack("<Q", objects << 16 | objects | stride << 32)
    raw[56:64] = struct.pack("<Q", vector)
    return bytes(raw)


def _cache(size: int) -> bytes:
    return bytes(24) + struct.pack("<I", size) + bytes(4)


def _vector(tags: list[int], stride: int = 16) -> bytes:
    return b"".join(struct.pack("<QQ", 0x77, tag).ljust(stride, b"\xee") for tag in tags)


def _slabs(pages: list[bytes]) -> dict[int, bytes]:
    return {VMEMMAP: b"".join(pages).ljust(PAGE_SIZE, b"\0")}


def test_each_object_in_use_counts_as_large_as_its_cache_says() -> None:
    vectors = _vector([TAG, 0, TAG + 40]) + _vector([0] * 4) + _vector([TAG] * 500)
    memory = _slabs(
        [
            _page(CACHES, 3, VECTORS | 1),
            _page(CACHES + 32, 4, VECTORS + 48 | 5),
            # No vector: allocating one failed (OBJEXTS_ALLOC_FAIL), or nothing ever was to be counted.
            _page(CACHES, 8, 1),
            _page(CACHES, 8, 0),
            _page(CACHES + 64, 500, VECTORS + 112 | 1),
        ]
    ) | {CACHES: _cache(192) + _cache(64) + _cache(8), VECTORS: vectors.ljust(4 * PAGE_SIZE, b"\0")}
    found = _reader(memory).read(np.arange(5), np.zeros(5, np.int64))
    assert found.reference.tolist() == [TAG, TAG + 40] + [TAG] * 500
    assert found.size.tolist() == [192, 192] + [8] * 500
    assert found.lost == 0


def test_extensions_may_lie_in_the_objects_themselves() -> None:
    """7.0: the slab says how far one is from the next."""
    memory = _slabs([_page(CACHES, 3, VECTORS | 1, stride=192)]) | {
        CACHES: _cache(192),
        VECTORS: _vector([TAG, 0, TAG + 40], 192).ljust(PAGE_SIZE, b"\0"),
    }
    reader = _reader(memory, stride=True)
    found = reader.read(np.array([0]), np.array([0]))
    assert found.reference.tolist() == [TAG, TAG + 40]
    assert reader.reference(0, 0, 2 * 192 + 5) == TAG + 40
    assert reader.reference(0, 0, 192) == 0


@pytest.mark.parametrize(
    "page",
    [
        _page(CACHES, 0x7FFF, VECTORS | 1),  # more objects than a page has room for
        _page(CACHES + 8, 3, VECTORS | 1),  # a cache of objects without a size
        _page(0xDEAD000000000100, 3, VECTORS | 1),
        _page(CACHES, 3, 0xFFFF999900000000 | 1),  # a vector that is not in the dump
    ],
)
def test_garbage_is_counted_and_not_believed(page: bytes) -> None:
    memory = _slabs([page]) | {CACHES: _cache(192).ljust(64, b"\0"), VECTORS: _vector([TAG] * 3)}
    reader = _reader(memory)
    found = reader.read(np.array([0]), np.array([0]))
    assert len(found.reference) == 0
    assert found.lost == 1


def test_a_slab_that_is_not_in_the_dump_is_lost() -> None:
    found = _reader({CACHES: _cache(192)}).read(np.array([7, 8]), np.array([0, 0]))
    assert (len(found.reference), found.lost) == (0, 2)
    assert isinstance(_reader({}).reader, Reader)
