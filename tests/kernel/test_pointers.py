"""Pointers as ``%p`` prints them."""

from __future__ import annotations

import pytest

from mmdump.kernel.pointers import HashedPointers, siphash_1u64

#: The bytes 0, 1, ... 15 as the halves of a key.
KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)


def test_siphash_is_that_of_its_authors_test_vectors() -> None:
    # lib/tests/siphash_kunit.c: siphash_1u64(0x0706050403020100), the vector of eight bytes.
    assert siphash_1u64(0x0706050403020100, KEY) == 0x93F5F5799A932462


@pytest.mark.parametrize(
    ("pointer", "text"),
    [(0, "0" * 16), ((1 << 64) - 22, "ffffffffffffffea"), (0x0706050403020100, "000000009a932462")],
)
def test_addresses_are_hashed_and_null_and_errors_are_not(pointer: int, text: str) -> None:
    assert HashedPointers(KEY).text(pointer) == text


def test_without_a_key_nothing_is_shown_and_without_hashing_all() -> None:
    assert HashedPointers(None).text(0xFFFF888000001000) == "(____ptrval____)"
    assert HashedPointers(KEY, plain=True).text(0xFFFF888000001000) == "ffff888000001000"
    assert len(HashedPointers(KEY, weak=True).text(0xFFFF888000001000)) == 16
