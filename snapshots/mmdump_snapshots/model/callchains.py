"""What the functions on the way to a page are called: many were renamed when folios came (5.16 and later)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine
    from .tasks import Calls

__all__ = ["calls", "page_fault"]

#: Older names, each with the release that has the next one; the last is the key itself.
_RENAMED: dict[str, tuple[tuple[tuple[int, int], str], ...]] = {
    "vma_alloc_folio_noprof": (((5, 19), "alloc_pages_vma"), ((6, 10), "vma_alloc_folio")),
    "filemap_alloc_folio_noprof": (((5, 16), "__page_cache_alloc"), ((6, 10), "filemap_alloc_folio")),
    "page_cache_ra_unbounded": (((5, 8), "__do_page_cache_readahead"),),
    "filemap_get_pages": (((5, 12), "generic_file_buffered_read"),),
    "shmem_alloc_folio": (((5, 17), "shmem_alloc_page"),),
    "shmem_alloc_and_add_folio": (
        ((5, 17), "shmem_alloc_and_acct_page"),
        ((6, 7), "shmem_alloc_and_acct_folio"),
    ),
    "shmem_get_folio_gfp": (((6, 1), "shmem_getpage_gfp"),),
    "alloc_migration_target": (((5, 9), "alloc_migrate_target"),),
    "alloc_contig_range_noprof": (((6, 10), "alloc_contig_range"),),
    "try_to_migrate_one": (((5, 14), "try_to_unmap_one"),),
    "try_to_migrate": (((5, 14), "try_to_unmap"),),
    "folio_batch_move_lru": (((6, 0), "pagevec_lru_move_fn"),),
    "mlock_folio_batch": (((5, 18), "pagevec_lru_move_fn"), ((6, 3), "mlock_pagevec")),
    "folio_putback_lru": (((5, 17), "putback_lru_page"),),
    "gup_put_folio": (((5, 17), "put_compound_head"),),
    "split_huge_page_to_list_to_order": (((6, 9), "split_huge_page_to_list"),),
    "filemap_remove_folio": (((5, 17), "delete_from_page_cache"),),
    "do_user_addr_fault": (((5, 3), "__do_page_fault"),),
    "exc_page_fault": (((5, 8), "do_page_fault"),),
    "asm_exc_page_fault": (((5, 8), "page_fault"),),
}

#: How a page fault comes in from user space, innermost first.
_ENTRY = {
    "x86_64": ("do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault"),
    "aarch64": (
        "do_page_fault",
        "do_translation_fault",
        "do_mem_abort",
        "el0_da",
        "el0t_64_sync_handler",
        "el0t_64_sync",
    ),
}


@cache
def _named(version: tuple[int, int], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        next((old for until, old in _RENAMED.get(name, ()) if version < until), name) for name in names
    )


def calls(machine: Machine, *names: str) -> Calls:
    """Functions on the stack while in a with, innermost first, by the names that the newest kernel has."""
    return machine.calls(*_named(machine.era.version, names))


def page_fault(machine: Machine, *names: str) -> Calls:
    """The same within a page fault of the running task."""
    return calls(machine, *names, "__handle_mm_fault", "handle_mm_fault", *_ENTRY[machine.arch])
