"""Objects of slabs, and the account of holders: what is free, what is held, what is missing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.holders import Counted, Hit, Holder, Owner, Place, State
from mmdump_holders.balance import SOUGHT, balance_table
from mmdump_holders.pipes import _Ring
from mmdump_holders.slabs import _Cache, _follow
from mmdump_holders.tables import held_by

START, SIZE, OBJECTS, OFFSET = 0xFFFF888001230000, 96, 42, 48


def swab(number: int) -> int:
    return int.from_bytes(number.to_bytes(8, "little"), "big")


def encoded(kind: str, pointer: int, where: int, random: int) -> int:
    """A free list's pointer as this kernel stores it."""
    return {
        "plain": pointer,
        "hardened": pointer ^ random ^ swab(where),
        "hardened before 5.7": pointer ^ random ^ where,
    }[kind]


def cache(kind: str, random: int) -> _Cache:
    return _Cache(
        "kmalloc-96", SIZE, SIZE, 0, OFFSET, None if kind == "plain" else random, {}, frozenset(), True
    )


def slab(kind: str, order: list[int], random: int, last: int = 0) -> tuple[np.ndarray, int]:
    """The words of a slab whose free objects are linked in this order, and the head of the list."""
    words = np.random.default_rng(1).integers(0, 1 << 63, OBJECTS * SIZE // 8, np.uint64)
    addresses = [START + index * SIZE for index in order]
    for address, following in zip(addresses, [*addresses[1:], last], strict=True):
        where = address + OFFSET
        words[(where - START) // 8] = encoded(kind, following, where, random)
    return words, addresses[0] if addresses else 0


@pytest.mark.parametrize("kind", ["plain", "hardened", "hardened before 5.7"])
@given(
    order=st.lists(st.integers(0, OBJECTS - 1), unique=True, min_size=1),
    random=st.integers(1, (1 << 64) - 1),
)
def test_a_free_list_is_followed_in_every_form(kind, order, random):
    words, head = slab(kind, order, random)
    free: set[int] = set()
    assert _follow(cache(kind, random), words, START, OBJECTS, head, free)
    assert free == {START + index * SIZE for index in order}


@given(
    order=st.lists(st.integers(0, OBJECTS - 1), unique=True, min_size=2), random=st.integers(1, (1 << 64) - 1)
)
def test_a_free_list_that_is_a_circle_has_an_end(order, random):
    words, head = slab("hardened", order, random, last=START + order[0] * SIZE)
    free: set[int] = set()
    assert not _follow(cache("hardened", random), words, START, OBJECTS, head, free)
    assert free <= {START + index * SIZE for index in range(OBJECTS)}


def test_a_free_list_that_leads_out_of_the_slab_says_so():
    words, head = slab("plain", [3, 9], 0, last=START + OBJECTS * SIZE)
    free: set[int] = set()
    assert not _follow(cache("plain", 0), words, START, OBJECTS, head, free)
    assert free == {START + 3 * SIZE, START + 9 * SIZE}


@pytest.mark.parametrize(
    ("tail", "used", "live"),
    [(0, 0, []), (0, 3, [0, 1, 2]), (14, 4, [14, 15, 0, 1]), (5, 16, [*range(5, 16), *range(5)])],
)
def test_slots_of_a_ring_are_in_use_from_tail_on(tail, used, live):
    ring = _Ring(0, 16, tail, used)
    assert sorted(live) == [slot for slot in range(16) if ring.turn(slot) is not None]
    assert [ring.turn(slot) for slot in live] == list(range(len(live)))


def hit(folio: int, address: int = 0xFFFF888000000000) -> Hit:
    return Hit(folio, 1, folio, "page", 0, 0, address & 0xFFFFFFFF, address, Place("slab", "kmalloc-64"))


def folio(pfn: int, **known: int) -> dict[str, int]:
    return dict.fromkeys(SOUGHT, 0) | {"pfn": pfn} | known


def balance(folios: list[dict[str, int]], *holders: Holder) -> list[dict[str, int]]:
    frame = pl.DataFrame(folios, schema=dict.fromkeys(SOUGHT, pl.Int64()))
    return balance_table(frame, holders).frame.to_dicts()


def pin(folio: int, address: int = 8) -> Holder:
    return Holder(hit(folio, address), "gup_test", State.LIVE, references=1, counted=Counted.PIN)


def test_a_pin_of_a_small_folio_is_1024_references():
    [row] = balance([folio(7, refcount=1025, mapped=1)], pin(7))
    assert (row["found_pins"], row["missing"], row["surplus"]) == (1, 0, 0)
    [row] = balance([folio(7, refcount=1025, mapped=1)])
    assert row["missing"] == 1024


def test_a_pin_of_a_large_folio_is_one_reference():
    [row] = balance([folio(512, order=9, refcount=2, mapped=1, exact_pins=1)], pin(512))
    assert (row["missing"], row["surplus"]) == (0, 0)


def test_two_holders_of_one_place_have_one_reference():
    [row] = balance([folio(7, refcount=1025, mapped=1)], pin(7, 8), pin(7, 8))
    assert (row["found_pins"], row["missing"]) == (1, 0)


def test_more_holders_than_references_show():
    [row] = balance([folio(7, refcount=1025, mapped=1)], pin(7, 8), pin(7, 16))
    assert (row["missing"], row["surplus"]) == (0, 1024)


def test_what_is_counted_already_is_not_counted_again():
    cached = Holder(hit(7), "page cache", State.LIVE, references=1, counted=Counted.CACHE)
    [row] = balance([folio(7, refcount=1, cache=1)], cached)
    assert (row["found"], row["missing"], row["surplus"]) == (0, 0, 0)


def test_an_allocation_has_a_reference_of_its_own_unless_its_holder_is_found():
    [row] = balance([folio(7, refcount=1, owned=1)])
    assert (row["owned"], row["missing"]) == (1, 0)
    area = Holder(hit(7), "vmalloc", State.LIVE, references=1)
    [row] = balance([folio(7, refcount=1, owned=1)], area)
    assert (row["owned"], row["found"], row["missing"], row["surplus"]) == (0, 1, 0, 0)


def test_stale_and_possible_places_hold_nothing():
    stale = Holder(hit(7, 8), "pipe", State.STALE, references=0)
    possible = Holder(hit(7, 16), "slab", State.POSSIBLE, counted=Counted.NONE)
    [row] = balance([folio(7, refcount=2, mapped=1)], stale, possible)
    assert (row["found"], row["missing"], row["possible"], row["stale"]) == (0, 1, 1, 1)


def test_processes_are_named_once_with_all_their_descriptors():
    owners = [Owner(70, "work", 4), Owner(71, "child", 4), Owner(70, "work", 3), Owner(70, "work", 4)]
    holder = Holder(hit(7), "pipe", State.LIVE, owners=owners)
    assert held_by(holder) == "pid 70 (work), fd 3, 4; pid 71 (child), fd 4"
