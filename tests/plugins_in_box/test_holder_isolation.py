"""Folios off the LRU: their list leads to the task on whose stack it begins."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mmdump.holders import Place, State
from mmdump.kernel.page import MAPPING_ANON
from mmdump.kernel.tasks import Task
from mmdump_holders import isolation
from mmdump_holders.isolation import find_isolated

VMEMMAP, SIZE, LRU, PG_LRU = 0xFFFFEA0000000000, 64, 8, 5
STACK = 0xFFFFC90000100000
TASK = Task(0xFFFF888000100000, 33, 33, "kcompactd0", STACK, STACK + 0x3000, False, 0, 0, 0)


@pytest.fixture(autouse=True)
def layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "offsetof", lambda _type, _member: LRU)
    monkeypatch.setattr(isolation, "find_object", lambda _prog, _name: SimpleNamespace(value_=lambda: PG_LRU))


def page(pfn: int) -> int:
    return VMEMMAP + SIZE * pfn


class Case:
    """Pages on a list that begins at an address."""

    def __init__(self, head: int, on_list: list[int], state: State = State.POSSIBLE) -> None:
        ring = [head, *(page(pfn) + LRU for pfn in on_list)]
        self.words: dict[int, int] = {}
        for before, at, after in zip([ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True):
            self.words |= {at: after, at + 8: before}
        self.folios = dict.fromkeys(on_list, 1)
        self.flags = dict.fromkeys(on_list, 0)
        self.prog = SimpleNamespace(read_u64=lambda at: self.words.get(at, 0), type=lambda _name: None)
        memmap = SimpleNamespace(address=page, end_pfn=1 << 20)
        self.kernel = SimpleNamespace(memmap=memmap, pages=self._pages)
        self._place = Place(
            "stack", "kcompactd0 33", STACK, 1 << 14, state, "in the frame of compact_zone", TASK
        )

    def _pages(self, start: int, _end: int, *, blocks: bool) -> SimpleNamespace:
        assert not blocks
        return SimpleNamespace(
            readable=np.array([True]),
            refcount=np.array([2]),
            flags=np.array([self.flags[start]], np.uint64),
            mapping=np.array([0xFFFF888000ABC000 | MAPPING_ANON], np.uint64),
            is_typed=lambda: np.array([False]),
            is_type=lambda _name: np.array([False]),
        )

    def place(self, address: int) -> Place | None:
        return self._place if STACK <= address < STACK + (1 << 14) else None


def test_every_folio_of_the_list_is_held_by_the_task() -> None:
    case = Case(STACK + 0x3100, [70, 12, 33])
    found = list(find_isolated(case))
    assert [(each.hit.folio, each.references, each.owners[0].text()) for each in found] == [
        (pfn, 1, "pid 33 (kcompactd0)") for pfn in (70, 12, 33)
    ]
    assert {each.what for each in found} == {"on a list in the frame of compact_zone"}


def test_a_folio_on_the_lru_is_not_isolated() -> None:
    case = Case(STACK + 0x3100, [70, 12])
    case.flags[70] = 1 << PG_LRU
    assert [each.hit.folio for each in find_isolated(case)] == [12]


def test_a_list_that_is_torn_leads_nowhere() -> None:
    case = Case(STACK + 0x3100, [70, 12, 33])
    case.words[page(12) + LRU] = page(12) + LRU
    assert [each.hit.folio for each in find_isolated(case)] == [33]


def test_a_list_in_the_dead_part_of_a_stack_is_nobodys() -> None:
    assert list(find_isolated(Case(STACK + 0x100, [70], State.STALE))) == []
