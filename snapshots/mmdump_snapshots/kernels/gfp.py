"""gfp masks by kernel release: the numbers of the bits, the masks made of them, and how ``%pGg`` names both.

The bits are macros (numbered by an enum since 6.10, which makes no difference), so debug info does not tell
them; the kernel's own table does, ``gfpflag_names`` (mm/debug.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

__all__ = ["bits", "flag_names", "mask", "masks"]

#: Bits in the order of their numbers; a dash is a number that is not in use.
_UP_TO_4_19 = (
    "DMA HIGHMEM DMA32 MOVABLE RECLAIMABLE HIGH IO FS WRITE NOWARN RETRY_MAYFAIL NOFAIL NORETRY MEMALLOC "
    "COMP ZERO NOMEMALLOC HARDWALL THISNODE ATOMIC ACCOUNT DIRECT_RECLAIM KSWAPD_RECLAIM"
)
_SINCE_5_0 = (
    "DMA HIGHMEM DMA32 MOVABLE RECLAIMABLE HIGH IO FS ZERO ATOMIC DIRECT_RECLAIM KSWAPD_RECLAIM WRITE NOWARN "
    "RETRY_MAYFAIL NOFAIL NORETRY MEMALLOC COMP NOMEMALLOC HARDWALL THISNODE ACCOUNT"
)


@cache
def bits(version: tuple[int, int]) -> dict[str, int]:
    """The single bits of a release by name, ``{"__GFP_DMA": 0x1, ...}``, lowest first."""
    order = (_UP_TO_4_19 if version < (5, 0) else _SINCE_5_0).split()
    if version >= (6, 4):
        # 6.4 did without __GFP_ATOMIC; the number stays free.
        order[order.index("ATOMIC")] = "-"
    if version >= (5, 14):
        order.append("ZEROTAGS")
    if (5, 14) <= version < (5, 18):
        # With CONFIG_KASAN_HW_TAGS alone since 5.18.
        order.append("SKIP_KASAN_POISON")
    if version >= (6, 10):
        order.append("NO_OBJ_EXT")
    return {f"__GFP_{name}": 1 << number for number, name in enumerate(order) if name != "-"}


@cache
def masks(version: tuple[int, int]) -> dict[str, int]:
    """The masks that code asks for memory with, by name: ``{"GFP_KERNEL": 0xcc0, ...}``."""
    bit = bits(version)

    def union(*names: str) -> int:
        return sum({name: bit[f"__GFP_{name}"] for name in names if f"__GFP_{name}" in bit}.values())

    reclaim = union("DIRECT_RECLAIM", "KSWAPD_RECLAIM")
    # 6.7: who does not wait does not want to hear of failure either.
    nowait = union("KSWAPD_RECLAIM") | (union("NOWARN") if version >= (6, 7) else 0)
    kernel = reclaim | union("IO", "FS")
    user = kernel | union("HARDWALL")
    # Pages of user space need no tags of their own poisoned (5.14 to 5.17 on any machine).
    movable = user | union("HIGHMEM", "MOVABLE", "SKIP_KASAN_POISON")
    light = (movable | union("COMP", "NOMEMALLOC", "NOWARN")) & ~reclaim
    return {
        "__GFP_RECLAIM": reclaim,
        "GFP_ATOMIC": union("HIGH", "ATOMIC", "KSWAPD_RECLAIM"),
        "GFP_KERNEL": kernel,
        "GFP_KERNEL_ACCOUNT": kernel | union("ACCOUNT"),
        "GFP_NOWAIT": nowait,
        "GFP_NOIO": reclaim,
        "GFP_NOFS": reclaim | union("IO"),
        "GFP_USER": user,
        "GFP_DMA": union("DMA"),
        "GFP_DMA32": union("DMA32"),
        "GFP_HIGHUSER": user | union("HIGHMEM"),
        "GFP_HIGHUSER_MOVABLE": movable,
        "GFP_TRANSHUGE_LIGHT": light,
        "GFP_TRANSHUGE": light | union("DIRECT_RECLAIM"),
    }


def mask(version: tuple[int, int], names: Iterable[str]) -> int:
    """The number that these flags are in a release.

    :param names: ``__GFP_ZERO``, ``GFP_KERNEL``, or without the prefix (``ZERO``). A flag that the release
        does not have (``__GFP_ATOMIC`` since 6.4) adds nothing.
    """
    bit, compound = bits(version), masks(version)
    found = 0
    for name in names:
        full = name if "GFP_" in name else f"__GFP_{name}"
        found |= bit.get(full, compound.get(full, 0))
    return found


#: ``__def_gfpflag_names`` (include/trace/events/mmflags.h) begins with the masks.
_COMPOUND = (
    "GFP_TRANSHUGE GFP_TRANSHUGE_LIGHT GFP_HIGHUSER_MOVABLE GFP_HIGHUSER GFP_USER GFP_KERNEL_ACCOUNT "
    "GFP_KERNEL GFP_NOFS GFP_ATOMIC GFP_NOIO GFP_NOWAIT GFP_DMA"
)
#: And goes on with bits in an order of its own; since 6.15 or so all bits by number.
_SINGLE = (
    "__GFP_HIGHMEM GFP_DMA32 __GFP_HIGH __GFP_ATOMIC __GFP_IO __GFP_FS __GFP_NOWARN __GFP_RETRY_MAYFAIL "
    "__GFP_NOFAIL __GFP_NORETRY __GFP_COMP __GFP_ZERO __GFP_NOMEMALLOC __GFP_MEMALLOC __GFP_HARDWALL "
    "__GFP_THISNODE __GFP_RECLAIMABLE __GFP_MOVABLE __GFP_ACCOUNT __GFP_WRITE __GFP_RECLAIM "
    "__GFP_DIRECT_RECLAIM __GFP_KSWAPD_RECLAIM __GFP_ZEROTAGS __GFP_SKIP_KASAN_POISON"
)


def flag_names(version: tuple[int, int]) -> list[tuple[int, str | None]]:
    """``gfpflag_names``: (mask, name) in the kernel's order, with the end mark ``(0, None)``."""
    known = {**bits(version), **masks(version)}
    order = _COMPOUND.split()
    last: list[tuple[int, str | None]] = [(0, None)]
    if version >= (6, 15):
        order += ["GFP_DMA32", "__GFP_RECLAIM", *bits(version)]
        # The macro ends with an entry for the number that comes after the last bit.
        last = [(0, None), (0, None)]
    else:
        order += _SINGLE.split()
    found: list[tuple[int, str | None]] = [(known[name], name) for name in order if name in known]
    return found + last
