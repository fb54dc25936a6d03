"""Who holds a page: where in memory its address stands, and what that place belongs to."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.holders import Recogniser
from mmdump.pagenotes import PageNotes

__all__ = ["mmdump_analyses", "mmdump_holders", "mmdump_page_notes"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump holders``."""
    from mmdump_holders.analysis import Holders

    return [Holders]


@hookimpl
def mmdump_page_notes() -> list[PageNotes]:
    """What holds single pages, where that is asked for."""
    from mmdump_holders.notes import holder_notes

    return [PageNotes("holders", holder_notes)]


@hookimpl
def mmdump_holders() -> list[Recogniser]:
    """The holders that mmdump knows."""
    from mmdump_holders.arrays import find_aio_rings, find_vmalloc
    from mmdump_holders.bios import find_bios
    from mmdump_holders.caches import find_batches, find_buffer_heads, find_page_cache
    from mmdump_holders.gup_test import find_gup_test
    from mmdump_holders.isolation import find_isolated
    from mmdump_holders.pipes import find_lost_pipes, find_pipes
    from mmdump_holders.pools import find_page_pools
    from mmdump_holders.requests import find_requests
    from mmdump_holders.rings import find_rings
    from mmdump_holders.scatterlists import find_scatterlists
    from mmdump_holders.sockets import find_lost_buffers, find_sockets

    return [
        Recogniser("aio", find_aio_rings, 10),
        Recogniser("folio batch", find_batches, 10),
        Recogniser("gup_test", find_gup_test, 10),
        Recogniser("io_uring", find_rings, 10),
        Recogniser("page cache", find_page_cache, 10),
        Recogniser("pipe", find_pipes, 10),
        Recogniser("socket", find_sockets, 10),
        Recogniser("vmalloc", find_vmalloc, 10),
        Recogniser("buffer", find_buffer_heads, 20),
        Recogniser("isolation", find_isolated, 20),
        Recogniser("page_pool", find_page_pools, 20),
        Recogniser("bio", find_bios, 30),
        Recogniser("request", find_requests, 35),
        Recogniser("pipe that no task has", find_lost_pipes, 40),
        Recogniser("socket buffer in no queue", find_lost_buffers, 40),
        Recogniser("scatterlist", find_scatterlists, 60),
    ]
