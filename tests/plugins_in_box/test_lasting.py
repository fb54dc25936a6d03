"""On a live kernel only what is held in every reading is held."""

from __future__ import annotations

import pytest

from mmdump.kernel.page import PageRange
from mmdump_page_pinner import evidence
from mmdump_page_pinner.evidence import find_held, find_lasting
from tests.kernel.builders import FILE, Memory
from tests.plugins_in_box.test_held import NO_BATCHES

LASTING, PASSING, REUSED = 3, 5, 7


def _reading(moment: int) -> Memory:
    memory = Memory(16)
    memory.small(LASTING, "PG_lru", refs=3, mapping=FILE)
    memory.small(PASSING, "PG_lru", refs=3 if moment < 2 else 1, mapping=FILE)
    memory.small(REUSED, "PG_lru", refs=3, mapping=FILE + 16 * moment)
    return memory


def _live(moment: int) -> PageRange:
    pages = _reading(moment).pages()
    pages.again = lambda: _live(moment + 1)
    return pages


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_MOMENT", 0)


def test_a_reference_that_comes_and_goes_and_a_page_that_changes_hands_hold_nothing() -> None:
    first = find_held(_live(0), NO_BATCHES)
    assert first.rows.tolist() == [LASTING, PASSING, REUSED]
    pages, held = find_lasting(_live(0), NO_BATCHES)
    assert held.rows.tolist() == [LASTING]
    assert held.held.tolist() == [True]
    assert held.account.excess.tolist() == [2]
    assert len(pages) == 16


def test_a_dump_is_read_once() -> None:
    pages = _reading(0).pages()
    again, held = find_lasting(pages, NO_BATCHES)
    assert again is pages
    assert held.rows.tolist() == [LASTING, PASSING, REUSED]
