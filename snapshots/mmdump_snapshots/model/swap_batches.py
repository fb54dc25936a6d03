"""LRU lists, and the per-CPU batches that pages wait in on their way there (mm/swap.c, mm/mlock.c).

A batch holds a reference to each folio in it. A folio waiting to be added is not on the LRU yet, so it cannot
be migrated before the batches are drained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callchains import calls
from .pages import PageFlag

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["FolioBatches"]


class FolioBatches:
    """``cpu_fbatches`` (``lru_pvecs``) and ``mlock_fbatch`` of every CPU.

    :ivar lru_add: One list of heads per CPU.
    :ivar mlock: One list of (head, PG_lru was set) per CPU; mlock_new() where it was not.
    :ivar disabled: ``lru_disable_count``: while it is not 0, batches are drained at every addition.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        cpus = machine.cpus
        self.lru_add: list[list[int]] = [[] for _ in range(cpus)]
        self.mlock: list[list[tuple[int, bool]]] = [[] for _ in range(cpus)]
        self.disabled = 0
        #: PAGEVEC_SIZE: 31 since 6.9.
        self.size = 31 if machine.era.version >= (6, 9) else 15

    def folio_add_lru(self, head: int) -> None:
        """``folio_add_lru()``, ``lru_cache_add()``: on the LRU some time later."""
        self._machine.pages.refcount[head] += 1
        batch = self.lru_add[self._machine.cpu]
        batch.append(head)
        if len(batch) >= self.size or self.disabled or self._large(head):
            self._drain_lru_add(batch)

    def mlock_folio(self, head: int) -> None:
        """``mlock_folio()``, ``mlock_new_folio()``: PG_mlocked now, unevictable some time later."""
        pages = self._machine.pages
        pages.set(head, PageFlag.MLOCKED)
        pages.refcount[head] += 1
        batch = self.mlock[self._machine.cpu]
        batch.append((head, pages.has(head, PageFlag.LRU)))
        if len(batch) >= self.size or self.disabled or self._large(head):
            self._drain_mlock(batch)

    def _large(self, head: int) -> bool:
        """Large folios are not kept in batches: a batch of THPs would hold too much memory."""
        return head in self._machine.rmap.folios

    def drain(self, cpu: int) -> None:
        """``lru_add_drain_cpu()``, and mlock's part of it."""
        self._drain_lru_add(self.lru_add[cpu])
        self._drain_mlock(self.mlock[cpu])

    def drain_all(self) -> None:
        """``lru_add_drain_all()``."""
        for cpu in range(len(self.lru_add)):
            self.drain(cpu)

    def disable(self) -> None:
        """``lru_cache_disable()``."""
        self.disabled += 1
        self.drain_all()

    def enable(self) -> None:
        """``lru_cache_enable()``."""
        self.disabled -= 1

    def _drain_lru_add(self, batch: list[int]) -> None:
        """``folio_batch_move_lru(lru_add)``, ``pagevec_lru_move_fn()``."""
        folios, batch[:] = tuple(batch), []
        for head in folios:
            self._lru_add(head)
            with calls(self._machine, "release_pages", "folio_batch_move_lru"):
                self._machine.put_page(head)

    def _drain_mlock(self, batch: list[tuple[int, bool]]) -> None:
        """``mlock_folio_batch()``, ``mlock_pagevec()``."""
        folios, batch[:] = tuple(batch), []
        pages = self._machine.pages
        for head, was_lru in folios:
            on_lru = pages.has(head, PageFlag.LRU)
            if on_lru:
                self.isolate(head)
            # What is still in the other batch gets to the unevictable list from there.
            if on_lru or not was_lru:
                self._lru_add(head)
            with calls(self._machine, "release_pages", "mlock_folio_batch"):
                self._machine.put_page(head)

    def _lru_add(self, head: int) -> None:
        """``lru_add()``: whatever is mlocked is unevictable."""
        pages = self._machine.pages
        if pages.has(head, PageFlag.LRU):
            return
        if pages.has(head, PageFlag.MLOCKED):
            pages.clear(head, PageFlag.ACTIVE)
            pages.set(head, PageFlag.UNEVICTABLE)
        pages.set(head, PageFlag.LRU)
        self._machine.node_of(head).lru[self.list_of(head)].add(head)

    def list_of(self, head: int) -> str:
        """``folio_lru_list()``."""
        pages = self._machine.pages
        if pages.has(head, PageFlag.UNEVICTABLE):
            return "unevictable"
        active = "active" if pages.has(head, PageFlag.ACTIVE) else "inactive"
        return f"{active}_{'anon' if pages.has(head, PageFlag.SWAPBACKED) else 'file'}"

    def isolate(self, head: int) -> None:
        """``folio_isolate_lru()`` without its reference, ``lruvec_del_folio()``."""
        self._machine.node_of(head).lru[self.list_of(head)].remove(head)
        self._machine.pages.clear(head, PageFlag.LRU)

    def putback(self, head: int) -> None:
        """``folio_putback_lru()``: add it again, and drop the reference of whoever had isolated it."""
        self.folio_add_lru(head)
        with calls(self._machine, "folio_putback_lru"):
            self._machine.put_page(head)

    def page_cache_release(self, head: int) -> None:
        """``__page_cache_release()``: a folio without references leaves the LRU."""
        pages = self._machine.pages
        if pages.has(head, PageFlag.LRU):
            self.isolate(head)
        pages.clear(head, PageFlag.ACTIVE | PageFlag.UNEVICTABLE | PageFlag.MLOCKED)

    def references(self, head: int) -> int:
        """How many references batches hold to a folio."""
        return sum(batch.count(head) for batch in self.lru_add) + sum(
            head == waiting for batch in self.mlock for waiting, _ in batch
        )
