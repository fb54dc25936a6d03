"""Which call chains are suspected of a leak, and which are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from mmdump_page_owner import leaks
from mmdump_page_owner.analysis import PageOwner
from mmdump_page_owner.leaks import fold_ages, fold_frees
from tests.kernel.builders import ANON, DRIVER_MOVABLE, FILE, Ext, Memory
from tests.plugins_in_box.owned import analysed, kernel, rows

LEAK, OTHER = 0x11, 0x12
#: An hour of uptime, nanoseconds.
NOW = 3600 * 10**9
COUNT = 512
EVENLY = np.linspace(NOW // 100, NOW - 10**9, COUNT).astype(np.uint64)


def machine(times=EVENLY, *, special: dict[str, int] | None = None):
    """A machine of 1024 pages whose first 512 one chain allocated at these times."""
    ext, of = Ext(2 * COUNT), Memory(2 * COUNT)
    for row in range(COUNT):
        ext.own(row, handle=LEAK)
        of.small(row)
    ext.rows["page_owner"]["ts_nsec"][:COUNT] = times
    return ext, of


def suspects(ext: Ext, of: Memory, analysis: PageOwner = PageOwner(), **options):  # noqa: B008 - frozen
    known = kernel({LEAK: ("alloc_pages", "leaky"), OTHER: ("alloc_pages", "other")}, **options)
    state = dataclasses.replace(analysis.start(known), leaks_until=NOW)
    return analysed(analysis, known, of.pages(ext.range()), state=state)


def keys(result) -> list[str]:
    return [each.key for each in result.findings]


def test_kernel_memory_allocated_all_the_time_and_never_freed_is_a_suspect_and_comes_first() -> None:
    ext, of = machine()
    for row in range(COUNT, 2 * COUNT):
        # More memory than the leak, of a process.
        ext.own(row, handle=OTHER)
        of.small(row, "PG_lru", "PG_swapbacked", mapping=ANON)
    result = suspects(ext, of)
    assert keys(result) == ["page-owner-leak"]
    assert result.text_tables[0] == "suspects"
    assert rows(result, "stack_id", "pages", "allocations", "freed_pages", table="suspects") == [
        (LEAK, COUNT, COUNT, 0)
    ]
    assert rows(result, "frames", table="suspects") == [(["alloc_pages+0x10/0x20", "leaky+0x10/0x20"],)]
    assert result.findings[0].table == "suspects"
    assert f"call chain {LEAK} " in result.findings[0].message
    assert "cannot prove" in result.findings[0].message


@pytest.mark.parametrize(
    ("times", "why"),
    [
        (np.full(COUNT, NOW // 2), "one burst"),
        (np.linspace(0, NOW // 100, COUNT), "at boot"),
        (np.linspace(NOW * 0.7, NOW - 10**9, COUNT), "only of late"),
        (np.linspace(0, NOW * 0.8, COUNT), "not any more"),
        (np.concatenate([np.zeros(COUNT * 3 // 4), np.linspace(0, NOW - 1, COUNT // 4)]), "mostly at boot"),
        (np.where(np.arange(COUNT) % 2, 10, NOW - 10), "at boot and now"),
        (np.array([0, 0.2, 0.4, 0.6, 0.98])[np.arange(COUNT) % 5] * NOW, "in five bursts"),
    ],
)
def test_what_came_in_a_burst_or_stopped_is_none(times, why: str) -> None:
    assert keys(suspects(*machine(times.astype(np.uint64)))) == [], why


@pytest.mark.parametrize("when", [0, NOW // 3, NOW - 2])
def test_a_burst_by_the_same_chain_does_not_hide_a_leak(when: int) -> None:
    times = np.concatenate([np.full(COUNT // 2, when), np.linspace(0, NOW - 1, COUNT // 2)])
    # Of the part with the burst counts as much again as of each other part.
    result = suspects(*machine(times.astype(np.uint64)))
    assert rows(result, "stack_id", "allocations", "evenly", table="suspects") == [
        (LEAK, COUNT, COUNT // 2 + COUNT // 32)
    ]


@pytest.mark.parametrize(
    "kind",
    [
        {"flags": ("PG_lru",)},
        {"mapping": ANON},
        {"mapping": FILE},
        {"mapping": DRIVER_MOVABLE},
        {"flags": ("PG_reserved",)},
    ],
)
def test_memory_that_the_kernel_can_take_back_or_set_aside_is_none(kind) -> None:
    ext, of = machine()
    for row in range(COUNT):
        of.small(row, *kind.get("flags", ()), mapping=kind.get("mapping", 0))
    assert keys(suspects(ext, of)) == []


@pytest.mark.parametrize("name", ["slab", "table", "hugetlb", "zsmalloc", "offline"])
def test_memory_of_a_type_is_none(name: str) -> None:
    ext, of = machine()
    for row in range(COUNT):
        of.typed(row, name)
    assert keys(suspects(ext, of)) == []


@pytest.mark.parametrize(("freed", "suspected"), [(51, True), (52, False), (500, False)])
def test_a_chain_whose_pages_are_seen_freed_is_none(freed: int, suspected: bool) -> None:
    ext, of = machine()
    for row in range(COUNT, COUNT + freed):
        ext.own(row, handle=LEAK).free(row, handle=OTHER)
    assert (keys(suspects(ext, of)) == ["page-owner-leak"]) == suspected


def test_few_allocations_are_none_however_large() -> None:
    ext, of = Ext(4096), Memory(4096)
    for row in range(0, 4096, 32):
        ext.own(row, order=5, handle=LEAK)
        of.large(row, 5)
    ext.rows["page_owner"]["ts_nsec"] = np.repeat(np.linspace(0, NOW - 1, 128).astype(np.uint64), 32)
    assert keys(suspects(ext, of)) == []


def test_large_blocks_are_counted_once_each() -> None:
    ext, of = Ext(2048), Memory(2048)
    for row in range(0, 2048, 4):
        ext.own(row, order=2, handle=LEAK)
        of.large(row, 2)
    ext.rows["page_owner"]["ts_nsec"] = np.repeat(EVENLY, 4)
    result = suspects(ext, of)
    assert rows(result, "pages", "allocations", table="suspects") == [(2048, 512)]


def test_pages_without_a_chain_of_their_own_are_none() -> None:
    ext, of = machine()
    assert keys(suspects(ext, of, special={"dummy_handle": LEAK})) == ["page-owner-dummy"]


@pytest.mark.parametrize(
    "options", [{"comm": ("dd",)}, {"pid": ("7",)}, {"stack": ("leaky",)}, {"free": True}]
)
def test_leaks_are_looked_for_in_all_pages_only(options) -> None:
    state = PageOwner(**options).start(kernel({}))
    assert state.leaks_until == 0


def test_without_the_time_of_the_dump_no_chain_is_suspected() -> None:
    ext, of = machine()
    result = analysed(PageOwner(), kernel({LEAK: ("leaky",)}), of.pages(ext.range()))
    assert keys(result) == []
    assert result.notes == ["When the dump was taken is not in it: leaks were not looked for."]
    # Nor are they where not all pages are asked about, and nobody expects it.
    some = analysed(PageOwner(order=("0",)), kernel({}), of.pages(ext.range()))
    assert not [note for note in some.notes if "leaks" in note]


def test_more_chains_than_can_be_kept_suspect_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_MAX_CHAINS", 4)
    frees = fold_frees(pl.DataFrame({"stack_id": range(9), "freed_pages": [1] * 9}))
    assert frees.rows() == [(-1, 1)]
    again = fold_frees(pl.concat([frees, pl.DataFrame({"stack_id": [5], "freed_pages": [7]})]))
    assert -1 in again["stack_id"]
    ages = pl.DataFrame(
        {
            "stack_id": np.repeat(np.arange(90), 2),
            "part": np.tile(np.array([0, 1], np.uint8), 90),
            "pages": np.ones(180, np.int64),
            "allocations": np.repeat(np.arange(90), 2),
            "oldest": np.zeros(180, np.uint64),
            "newest": np.zeros(180, np.uint64),
        }
    )
    kept = fold_ages(ages)
    assert len(kept) <= 64
    assert 89 in kept["stack_id"]
