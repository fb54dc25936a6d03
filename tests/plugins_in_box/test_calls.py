"""What call chains say: whose put it was, and who asked for a range."""

from __future__ import annotations

import pytest

from mmdump_page_pinner.calls import Put, asker, function_names, put_of

PIPE = (
    *("trace_event_raw_event_page_pinner_template", "__page_pinner_put", "page_cache_pipe_buf_release"),
    *("pipe_read", "vfs_read", "ksys_read", "do_syscall_64"),
)
MIGRATION = (
    *("__page_pinner_put", "isolate_migratepages_block", "isolate_migratepages_range"),
    *(
        "__alloc_contig_migrate_range",
        "alloc_contig_range",
        "cma_alloc",
        "cma_heap_allocate",
        "dma_heap_ioctl",
    ),
)


def test_names_lose_what_the_compiler_and_the_kernel_add() -> None:
    frames = [
        "pipe_read+0x1c/0x400",
        "simple_attr_write_xsigned.constprop.0.isra.0+0x1/0x2",
        "alloc_contig_range_noprof",
        "skb_put+0x1/0x2 [mod]",
        "a.part.3.cold",
        "0xffffffffc0001234",
    ]
    assert function_names(frames) == (
        *(
            "pipe_read",
            "simple_attr_write_xsigned",
            "alloc_contig_range",
            "skb_put",
            "a",
            "0xffffffffc0001234",
        ),
    )


@pytest.mark.parametrize(
    ("chain", "put"),
    [
        (PIPE, Put("user", "pipe", "pipe_read -> page_cache_pipe_buf_release")),
        (MIGRATION, Put("migration", "", "isolate_migratepages_block")),
        (
            ("__page_pinner_put", "release_pages", "free_pages_and_swap_cache", "tlb_flush_mmu", "exit_mmap"),
            Put("unmapping", "", "free_pages_and_swap_cache"),
        ),
        (
            ("folios_put_refs", "lru_add_drain_cpu", "lru_add_drain"),
            Put("LRU batch", "", "lru_add_drain_cpu"),
        ),
        (("put_page", "shrink_folio_list", "shrink_node"), Put("reclaim", "", "shrink_folio_list")),
        (
            ("__page_pinner_put", "unpin_user_page", "my_driver_done", "my_driver_irq"),
            Put("user", "get_user_pages() of a driver", "unpin_user_page"),
        ),
        (("put_page", "my_driver_done", "my_driver_irq"), Put("user", "", "my_driver_irq -> my_driver_done")),
        (("__bio_release_pages", "bio_endio"), Put("user", "direct I/O", "__bio_release_pages")),
        ((), Put("unknown", "", "")),
        (("put_page",), Put("unknown", "", "")),
    ],
)
def test_puts_are_told_apart(chain: tuple[str, ...], put: Put) -> None:
    assert put_of(chain) == put


@pytest.mark.parametrize(
    ("chain", "purpose", "by"),
    [
        (MIGRATION, "a CMA allocation", "cma_heap_allocate"),
        (
            ("test_pages_isolated", "alloc_contig_range", "__cma_alloc", "cma_alloc_write", "vfs_write"),
            "a CMA allocation",
            "cma_alloc_write",
        ),
        (
            ("test_pages_isolated", "alloc_contig_range", "alloc_contig_pages", "alloc_gigantic_folio", "x"),
            "a gigantic huge page",
            "alloc_gigantic_folio",
        ),
        (
            ("test_pages_isolated", "offline_pages", "memory_subsys_offline"),
            "memory going offline",
            "offline_pages",
        ),
        (
            ("report_page_pinners", "migrate_pages", "compact_zone", "kcompactd_do_work"),
            "compaction",
            "kcompactd_do_work",
        ),
        (("report_page_pinners", "migrate_pages", "my_mover"), "a migration", "my_mover"),
        ((), "a migration", ""),
    ],
)
def test_who_asked_is_found(chain: tuple[str, ...], purpose: str, by: str) -> None:
    found = asker(chain)
    assert (found.purpose, found.by) == (purpose, by)
