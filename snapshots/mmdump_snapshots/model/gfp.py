"""gfp masks: what an allocation may do, and where from (include/linux/gfp_types.h).

The numbers are the model's own: they changed with nearly every release. The names are the kernel's, less
``__GFP_`` of the single bits and ``GFP_`` of what is made of them.
"""

from __future__ import annotations

from enum import IntFlag

__all__ = [
    "GFP_ATOMIC",
    "GFP_DMA",
    "GFP_DMA32",
    "GFP_HIGHUSER",
    "GFP_HIGHUSER_MOVABLE",
    "GFP_KERNEL",
    "GFP_KERNEL_ACCOUNT",
    "GFP_NOFS",
    "GFP_NOIO",
    "GFP_NOWAIT",
    "GFP_TRANSHUGE",
    "GFP_TRANSHUGE_LIGHT",
    "GFP_USER",
    "Gfp",
]


class Gfp(IntFlag):
    """Bits of a gfp mask (``gfp_t``), and the masks that callers use."""

    DMA = 1 << 0
    HIGHMEM = 1 << 1
    DMA32 = 1 << 2
    MOVABLE = 1 << 3
    RECLAIMABLE = 1 << 4
    HIGH = 1 << 5
    IO = 1 << 6
    FS = 1 << 7
    ZERO = 1 << 8
    DIRECT_RECLAIM = 1 << 9
    KSWAPD_RECLAIM = 1 << 10
    WRITE = 1 << 11
    NOWARN = 1 << 12
    RETRY_MAYFAIL = 1 << 13
    NOFAIL = 1 << 14
    NORETRY = 1 << 15
    MEMALLOC = 1 << 16
    COMP = 1 << 17
    NOMEMALLOC = 1 << 18
    HARDWALL = 1 << 19
    THISNODE = 1 << 20
    ACCOUNT = 1 << 21

    RECLAIM = DIRECT_RECLAIM | KSWAPD_RECLAIM
    #: Up to 6.2 with a bit of its own as well, which said that the caller may not sleep.
    ATOMIC = HIGH | KSWAPD_RECLAIM
    KERNEL = RECLAIM | IO | FS
    KERNEL_ACCOUNT = KERNEL | ACCOUNT
    #: With NOWARN since 6.7.
    NOWAIT = KSWAPD_RECLAIM
    NOIO = RECLAIM
    NOFS = RECLAIM | IO
    USER = KERNEL | HARDWALL
    HIGHUSER = USER | HIGHMEM
    HIGHUSER_MOVABLE = HIGHUSER | MOVABLE
    TRANSHUGE_LIGHT = (HIGHUSER_MOVABLE | COMP | NOMEMALLOC | NOWARN) & ~RECLAIM
    TRANSHUGE = TRANSHUGE_LIGHT | DIRECT_RECLAIM


GFP_ATOMIC = Gfp.ATOMIC
GFP_KERNEL = Gfp.KERNEL
GFP_KERNEL_ACCOUNT = Gfp.KERNEL_ACCOUNT
GFP_NOWAIT = Gfp.NOWAIT
GFP_NOIO = Gfp.NOIO
GFP_NOFS = Gfp.NOFS
GFP_USER = Gfp.USER
GFP_DMA = Gfp.DMA
GFP_DMA32 = Gfp.DMA32
GFP_HIGHUSER = Gfp.HIGHUSER
GFP_HIGHUSER_MOVABLE = Gfp.HIGHUSER_MOVABLE
GFP_TRANSHUGE_LIGHT = Gfp.TRANSHUGE_LIGHT
GFP_TRANSHUGE = Gfp.TRANSHUGE
