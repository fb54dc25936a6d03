"""What call chains say: who asked for a range of pages, and on whose behalf a reference was put.

Functions are known by their names, which is all that a chain has. What is not known is named as it is: the
first function that is not mere plumbing of reference counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Asker", "Put", "asker", "function_names", "put_of"]

#: Of what user each of these is, by the beginning of a function's name; the first in a chain counts,
#: innermost first. A put by migration is found before, anywhere in the chain.
_USERS = (
    ("pipe", ("page_cache_pipe_buf", "generic_pipe_buf", "anon_pipe_buf", "user_page_pipe_buf", "pipe_")),
    ("splice", ("splice_", "iter_file_splice", "vmsplice_", "direct_splice", "zero_pipe_buf", "do_splice")),
    ("io_uring", ("io_sqe_buffer", "io_rsrc_", "io_buffer_", "io_free_rsrc", "io_unpin", "io_release_ubuf")),
    (
        "direct I/O",
        ("bio_release_pages", "__bio_release_pages", "bio_check_pages_dirty", "dio_", "iomap_dio"),
    ),
    (
        "DMA mapping of a device",
        ("vfio_", "ib_umem_", "__ib_umem_", "iommufd_", "iopt_", "unpin_user_pages_"),
    ),
    (
        "network buffers",
        ("skb_", "__skb_", "kfree_skb", "consume_skb", "tcp_", "sk_msg_", "napi_", "net_rx_"),
    ),
    ("get_user_pages() of a driver", ("unpin_user_page", "gup_put_folio", "gup_test", "put_user_page")),
    ("futex", ("futex_", "get_futex_key", "put_futex_key")),
    ("direct memory access of KVM", ("kvm_",)),
    ("a reader or writer of a file", ("filemap_", "generic_file_", "generic_perform_write", "shmem_file_")),
    (
        "page faults",
        ("do_wp_page", "wp_page_copy", "do_swap_page", "do_fault", "finish_fault", "__handle_mm"),
    ),
    (
        "readers of /proc",
        ("kpage", "pagemap_", "smaps_", "page_idle_", "access_remote_vm", "__access_remote"),
    ),
)
#: Migration and what leads to it: isolating pages, moving them, putting them back.
_MIGRATION = (
    *("isolate_migratepages", "isolate_lru_page", "folio_isolate_lru", "isolate_movable", "putback_movable"),
    *(
        "putback_lru_page",
        "folio_putback_lru",
        "migrate_pages",
        "migrate_folio",
        "unmap_and_move",
        "migrate_page",
    ),
    *(
        "__alloc_contig_migrate_range",
        "compact_zone",
        "do_migrate_range",
        "remove_migration_pte",
        "move_to_new_",
    ),
)
_RECLAIM = (
    "shrink_",
    "reclaim_",
    "__remove_mapping",
    "evict_folios",
    "lru_gen_shrink",
    "reclaim_clean_pages",
)
#: The per-CPU batches on the way to the LRU.
_BATCHES = (
    "lru_add_",
    "folio_batch_move_lru",
    "pagevec_lru",
    "__pagevec_",
    "lru_cache_add",
    "mlock_",
    "lru_note",
)
#: A process gives back its mapping.
_UNMAPPING = (
    *(
        "zap_",
        "unmap_page_range",
        "unmap_vmas",
        "unmap_single_vma",
        "exit_mmap",
        "tlb_flush_mmu",
        "tlb_finish_mmu",
    ),
    *("tlb_batch_pages_flush", "free_pages_and_swap_cache", "madvise_free", "__unmap_hugepage"),
)
_TRUNCATION = ("truncate_", "invalidate_", "delete_from_page_cache", "filemap_remove", "shmem_undo_range")
#: Kinds of puts by the names that tell them: anywhere in a chain, and by the first that does.
_ANYWHERE: tuple[tuple[str, tuple[str, ...]], ...] = (("migration", _MIGRATION), ("reclaim", _RECLAIM))
_IN_TURN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LRU batch", _BATCHES),
    ("unmapping", _UNMAPPING),
    ("truncation", _TRUNCATION),
)
#: What only counts references, or writes the event.
_PLUMBING = re.compile(
    r"(trace_event_raw_event_|trace_event_buffer|__traceiter_|trace_page_|__trace_|__page_pinner|__page_pin_|"
    r"__reset_page_pinner|page_pinner_|page_pin_owner|report_page_pinners|put_page|__put_page|folio_put|__folio_put|"
    r"folios_put|release_pages|free_unref|__page_ref_|page_ref_|put_devmap|stack_trace_|__ftrace|ftrace_)"
)
#: Who asks for a range: the innermost that is there says what it is for.
_ASKERS = (
    ("cma_alloc", "a CMA allocation"),
    ("__cma_alloc", "a CMA allocation"),
    ("alloc_contig_pages", "an allocation of contiguous pages"),
    ("alloc_gigantic", "a gigantic huge page"),
    ("offline_pages", "memory going offline"),
    ("virtio_mem", "virtio-mem taking memory away"),
    ("do_migrate_range", "memory going offline"),
    ("alloc_contig", "an allocation of contiguous pages"),
    ("compact_", "compaction"),
    ("soft_offline", "a page going offline"),
    ("migrate_to_node", "a move to another node"),
    ("kernel_move_pages", "a move to another node"),
    ("do_mbind", "a memory policy"),
    ("migrate_misplaced", "NUMA balancing"),
    ("migrate_longterm_unpinnable", "a long-term pin"),
    ("collect_longterm", "a long-term pin"),
    ("__gup_longterm", "a long-term pin"),
)
#: What stands between such a function and who called it.
_WAY = re.compile(
    r"(test_pages_isolated|__?alloc_contig|alloc_contig|__cma_alloc|cma_alloc|cma_range_alloc|migrate_|unmap_and_move|"
    r"start_isolate|compact_|try_to_compact|__alloc_pages_direct|isolate_)"
)
#: What the compiler and the kernel's debugging add to a name.
_SUFFIX = re.compile(
    r"(\+0x[0-9a-f]+(/0x[0-9a-f]+)?|\.(constprop|isra|part|cold|llvm)\b.*|_noprof\b.*| \[.*\])"
)
#: Functions of a chain that are named, at most.
_NAMED = 2


@dataclass(frozen=True)
class Put:
    """On whose behalf a reference was put (or taken).

    :param kind: ``migration``, ``reclaim``, ``LRU batch``, ``unmapping``, ``truncation``, ``user`` or
        ``unknown``.
    :param holder: What sort of user, such as ``pipe``; empty for other kinds.
    :param by: The functions that say so, as ``caller -> function``.
    """

    kind: str
    holder: str
    by: str


@dataclass(frozen=True)
class Asker:
    """Who asked for a range of pages.

    :param purpose: Such as ``a CMA allocation``.
    :param by: The function that asked for it; empty where the chain does not tell.
    """

    purpose: str
    by: str


def function_names(chain: Sequence[str]) -> tuple[str, ...]:
    """The bare names of a chain's functions, innermost first."""
    return tuple(_SUFFIX.sub("", each) for each in chain)


@lru_cache(maxsize=1 << 14)
def put_of(chain: tuple[str, ...]) -> Put:
    """Classify a put (or a get) by its chain; see :func:`function_names`."""
    for kind, names in _ANYWHERE:
        found = next((each for each in chain if each.startswith(names)), None)
        if found is not None:
            return Put(kind, "", found)
    path = [each for each in chain if _PLUMBING.match(each) is None]
    for at, each in enumerate(path):
        holder = next((name for name, begins in _USERS if each.startswith(begins)), None)
        if holder is not None:
            return Put("user", holder, _words(path[at:], holder))
        for kind, names in _IN_TURN:
            if each.startswith(names):
                return Put(kind, "", each)
    return Put("user", "", _words(path, "")) if path else Put("unknown", "", "")


def _words(path: Sequence[str], holder: str) -> str:
    """``pipe_read -> page_cache_pipe_buf_release``: the innermost function, and who called it."""
    begins = next((begins for name, begins in _USERS if name == holder), ())
    named = [path[0]]
    for each in path[1:]:
        if len(named) == _NAMED or (begins and not each.startswith(begins)):
            break
        named.append(each)
    return " -> ".join(reversed(named))


@lru_cache(maxsize=1 << 14)
def asker(chain: tuple[str, ...]) -> Asker:
    """Who asked for the range in which a page was in the way."""
    for at, each in enumerate(chain):
        purpose = next((purpose for begin, purpose in _ASKERS if each.startswith(begin)), None)
        if purpose is None or (purpose == "an allocation of contiguous pages" and _more(chain[at + 1 :])):
            continue
        # cma_alloc_write() is the debugfs file, and asks itself.
        path = [one for one in chain[at:] if not _WAY.match(one) or one == "cma_alloc_write"]
        return Asker(purpose, path[0] if path else "")
    path = [each for each in chain if not (_PLUMBING.match(each) or _WAY.match(each))]
    return Asker("a migration", path[0] if path else "")


def _more(chain: Sequence[str]) -> bool:
    """Whether somebody further out says better what the range is for."""
    return any(
        each.startswith(begin)
        for each in chain
        for begin, _ in _ASKERS
        if not begin.startswith("alloc_contig")
    )
