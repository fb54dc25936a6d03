"""What pages are used for: the same whoever asks, and of a folio's pages one thing."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from mmdump_page_owner.kinds import KINDS, kind_codes
from tests.kernel.builders import ANON, FILE, Memory, hostile_memory


def kinds(memory: Memory) -> list[str]:
    """Of all pages."""
    pages = memory.pages()
    return [KINDS[code] for code in kind_codes(pages, np.arange(len(pages)))]


@given(hostile_memory())
def test_whatever_the_bytes_a_page_asked_for_with_others_is_what_it_is_alone(memory: Memory) -> None:
    pages = memory.pages()
    rows = np.arange(len(pages))
    together = kind_codes(pages, rows)
    assert together.tolist() == [int(kind_codes(pages, rows[row : row + 1])[0]) for row in rows]
    assert kind_codes(pages, rows[::3]).tolist() == together[::3].tolist()
    # Of a folio whose head lies before the range it is known only that it is gigantic, as hugetlb alone is.
    before = pages.head_pfn < pages.start
    # (Or garbage: what says of itself that it is a slab is one.)
    assert (together[before & ~pages.is_type("slab")] == KINDS.index("hugetlb")).all()


def test_tails_are_what_their_head_is() -> None:
    memory = (
        Memory(32).large(0, 3, "PG_lru", "PG_swapbacked", mapping=ANON).large(8, 2, "PG_lru", mapping=FILE)
    )
    memory.large(16, 2).small(20, "PG_reserved")
    memory.typed(12, "slab").typed(13, "table")
    assert kinds(memory)[:12] == ["anon"] * 8 + ["file"] * 4
    assert kinds(memory)[12:14] == ["slab", "table"]
    assert kinds(memory)[16:21] == ["kernel"] * 4 + ["reserved"]
