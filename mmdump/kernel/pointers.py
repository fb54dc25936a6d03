"""Pointers as the kernel prints them with ``%p``: hashed by a key that is in the dump (lib/vsprintf.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.layout import byteorder, find_object

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["HashedPointers", "read_hashed_pointers", "siphash_1u64"]

_U64 = (1 << 64) - 1
#: MAX_ERRNO: pointers above are errors.
_FIRST_ERROR = _U64 - 4095 + 1
#: 2**64 divided by the golden ratio: hash_long().
_GOLDEN = 0x61C8864680B583EB
#: Hashes that are remembered.
_MOST_KNOWN = 1 << 16


def siphash_1u64(first: int, key: tuple[int, int]) -> int:
    """SipHash-2-4 of one 64-bit number: ``siphash_1u64()`` (lib/siphash.c).

    :param key: The two halves of the key.
    """
    low, high = key
    v0, v1, v2, v3 = (
        0x736F6D6570736575 ^ low,
        0x646F72616E646F6D ^ high,
        0x6C7967656E657261 ^ low,
        0x7465646279746573 ^ high,
    )
    for word in (first & _U64, 8 << 56):
        v3 ^= word
        v0, v1, v2, v3 = _rounds(2, v0, v1, v2, v3)
        v0 ^= word
    v2 ^= 0xFF
    v0, v1, v2, v3 = _rounds(4, v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = (v0 + v1) & _U64
        v1 = _rotated(v1, 13) ^ v0
        v0 = _rotated(v0, 32)
        v2 = (v2 + v3) & _U64
        v3 = _rotated(v3, 16) ^ v2
        v0 = (v0 + v3) & _U64
        v3 = _rotated(v3, 21) ^ v0
        v2 = (v2 + v1) & _U64
        v1 = _rotated(v1, 17) ^ v2
        v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _U64


class HashedPointers:
    """``%p`` of one kernel.

    :param key: Of the hash; None where it was not chosen yet, or is not in the dump.
    :param plain: Whether pointers are printed as they are (``no_hash_pointers``).
    :param weak: Whether the hash is one without a key (``debug_boot_weak_hash``).
    """

    def __init__(self, key: tuple[int, int] | None, *, plain: bool = False, weak: bool = False) -> None:
        self.key = key
        self.plain = plain
        self.weak = weak
        self._known: dict[int, str] = {}

    def text(self, pointer: int) -> str:
        """Sixteen digits: ``default_pointer()``; NULL and errors are printed as they are (5.8)."""
        pointer &= _U64
        found = self._known.get(pointer)
        if found is None:
            found = self._text(pointer)
            if len(self._known) < _MOST_KNOWN:
                self._known[pointer] = found
        return found

    def _text(self, pointer: int) -> str:
        if self.plain or not pointer or pointer >= _FIRST_ERROR:
            return f"{pointer:016x}"
        if self.weak:
            return f"{(pointer * _GOLDEN & _U64) >> 32:016x}"
        if self.key is None:
            return "(____ptrval____)"
        return f"{siphash_1u64(pointer, self.key) & 0xFFFFFFFF:016x}"


def read_hashed_pointers(prog: Program) -> HashedPointers:
    """The key by which this kernel hashes pointers, and whether it does. Does not raise."""
    plain = _is_set(prog, "no_hash_pointers")  # 5.12
    weak = _is_set(prog, "debug_boot_weak_hash")  # 4.19
    key: tuple[int, int] | None = None
    found = find_object(prog, "ptr_key", "vsprintf.c")
    # 6.2 has a bool for what was a static key, true as long as there was no key yet.
    if found is not None and found.address_ is not None and _filled(prog):
        try:
            raw = prog.read(found.address_, 16)
            low, high = struct.unpack(byteorder(prog) + "QQ", raw)
            key = low, high
        except FaultError:
            key = None
    return HashedPointers(key, plain=plain, weak=weak)


def _is_set(prog: Program, name: str) -> bool:
    found = find_object(prog, name)
    try:
        return found is not None and bool(found.value_())
    except FaultError:
        return False


def _filled(prog: Program) -> bool:
    filled = find_object(prog, "filled_random_ptr_key")
    waiting = find_object(prog, "not_filled_random_ptr_key")
    try:
        if filled is not None:
            return bool(filled.value_())
        return waiting is None or waiting.key.enabled.counter.value_() <= 0
    except (FaultError, AttributeError):
        # A key that is not zero was chosen.
        return True
