"""What pages can be grouped by: page_owner_sort's ``--cull`` keys, and more of the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from mmdump.errors import UsageError
from mmdump.kernel.arrays import decoded
from mmdump.result import Column, Kind
from mmdump_page_owner.kinds import KINDS
from mmdump_page_owner.memcg import charged_to

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_page_owner.chains import Chains

__all__ = ["CULL_KEYS", "KEYS", "STACKTRACE", "Key", "Sums", "named", "parse_keys", "text_of"]


@dataclass(frozen=True)
class Sums:
    """Sums by codes and chain, to be named.

    :param frame: One row per sum, with the code columns, ``stack_id``, ``order``, ``migratetype``, ``comm``.
    """

    kernel: Kernel
    frame: pl.DataFrame
    chains: Chains


@dataclass(frozen=True)
class Key:
    """Something to group by.

    :param columns: Those it has in the table.
    :param name: Makes the key of each row of the sums: a series, or several in the order of the columns.
    :param codes: What the scan must tell apart for it.
    :param member: The member of the record it needs, as :data:`mmdump_page_owner.codes.MEMBERS` names it.
    """

    columns: tuple[Column, ...]
    name: Callable[[Sums], pl.Series]
    codes: tuple[str, ...] = ()
    member: str | None = None


def named(kernel: Kernel, index: int) -> str | None:
    """The name of a migratetype; None for a number that is none."""
    names = kernel.pageblocks.names
    return names[index] if 0 <= index < len(names) else None


def text_of(codes: pl.Series, name: Callable[[int], str | None]) -> pl.Series:
    """Names of a column of codes, null where the code is or has no name."""
    return decoded(codes, lambda code: None if code is None else name(code), pl.String())


def _zones(sums: Sums) -> pl.Series:
    zones = {zone.index: zone.name for zone in sums.kernel.zones}
    return text_of(sums.frame["zone"], lambda index: zones.get(index, f"zone{index}"))


def _areas(sums: Sums) -> pl.Series:
    areas = [area.name for area in sums.kernel.cma_areas]
    return text_of(sums.frame["area"], lambda index: areas[index] if 0 <= index < len(areas) else None)


def _memcgs(sums: Sums) -> pl.Series:
    return text_of(sums.frame["memcg_data"], lambda word: charged_to(sums.kernel, word))


def _allocators(sums: Sums) -> pl.Series:
    """``get_allocator()`` of tools/mm/page_owner_sort.c.

    ``cma``: the pageblock's migratetype (or the allocation's) is CMA. ``slab``: a slab page. ``vmalloc``: the
    chain has ``__vmalloc_node_range``, called for by the frame before it from something with ``alloc_pages``.
    More than one may be true; where none is, ``others``.
    """
    frame = sums.frame
    names = sums.kernel.pageblocks.names
    cma = names.index("CMA") if "CMA" in names else -1
    vmalloc = sums.chains.of(frame["stack_id"], "vmalloc").fill_null(False)
    parts = pl.DataFrame(
        {
            "cma": ((frame["block"] == cma) | (frame["migratetype"] == cma)).fill_null(False),
            "slab": (frame["kind"] == KINDS.index("slab")).fill_null(False),
            "vmalloc": vmalloc,
        }
    )
    words = [pl.when(name).then(pl.lit(name)) for name in parts.columns]
    joined = pl.concat_str(words, separator="|", ignore_nulls=True)
    return parts.select(pl.when(joined == "").then(pl.lit("others")).otherwise(joined)).to_series()


def _column(name: str) -> Callable[[Sums], pl.Series]:
    return lambda sums: sums.frame[name]


KEYS: Mapping[str, Key] = {
    "stacktrace": Key(
        (Column("stack_id", Kind.ID, "stack depot handle of the chain", aliases=("stacktrace", "st")),),
        _column("stack_id"),
    ),
    "pid": Key((Column("pid", Kind.ID, "PID of the task", aliases=("p",)),), _column("pid"), ("pid",), "pid"),
    "tgid": Key(
        (Column("tgid", Kind.ID, "its thread group", aliases=("tg",)),), _column("tgid"), ("tgid",), "tgid"
    ),
    "comm": Key(
        (Column("comm", Kind.TEXT, "name of the task that allocated", aliases=("name", "n")),),
        _column("comm"),
        (),
        "comm",
    ),
    "allocator": Key(
        (Column("allocator", Kind.TEXT, "cma, slab, vmalloc or others", aliases=("ator",)),),
        _allocators,
        ("block", "kind"),
    ),
    "order": Key((Column("order", Kind.ID, "order of the allocations"),), _column("order")),
    "gfp": Key(
        (Column("gfp_flags", Kind.TEXT, "names of the gfp_mask's bits"),),
        lambda sums: text_of(
            sums.frame["gfp_mask"], lambda word: "|".join(sums.kernel.gfp_names.split(word))
        ),
        ("gfp_mask",),
    ),
    "migratetype": Key(
        (Column("migratetype", Kind.TEXT, "the migratetype that the gfp_mask asked for"),),
        lambda sums: text_of(sums.frame["migratetype"], lambda index: named(sums.kernel, index)),
    ),
    "zone": Key((Column("zone", Kind.TEXT, "zone"),), _zones, ("zone",)),
    "node": Key((Column("node", Kind.ID, "NUMA node"),), _column("node"), ("node",)),
    "kind": Key(
        (Column("kind", Kind.TEXT, "what the pages are used for", values=KINDS),),
        lambda sums: text_of(sums.frame["kind"], lambda code: KINDS[code]),
        ("kind",),
    ),
    "memcg": Key(
        (Column("memcg", Kind.TEXT, "name of the memory cgroup that is charged"),), _memcgs, ("memcg_data",)
    ),
    "cma": Key((Column("cma_area", Kind.TEXT, "CMA area they lie in"),), _areas, ("area",)),
    "module": Key(
        (Column("module", Kind.TEXT, "module of the innermost frame that is in one"),),
        lambda sums: sums.chains.of(sums.frame["stack_id"], "module"),
    ),
}
STACKTRACE = "stacktrace"

#: page_owner_sort's names for keys, and its abbreviations.
CULL_KEYS: Mapping[str, str] = {
    "pid": "pid",
    "p": "pid",
    "tgid": "tgid",
    "tg": "tgid",
    "name": "comm",
    "n": "comm",
    "stacktrace": STACKTRACE,
    "st": STACKTRACE,
    "allocator": "allocator",
    "ator": "allocator",
}


def parse_keys(cull: Iterable[str], by: Iterable[str]) -> Sequence[str]:
    """The keys that two options ask for, each once, in their order; the call chain when they ask for none.

    :param cull: Comma-separated names of :data:`CULL_KEYS`.
    :param by: Comma-separated names of these or of :data:`KEYS`.
    :raises UsageError: There is no such key.
    """
    every = dict(CULL_KEYS) | {name: name for name in KEYS} | {"stack": STACKTRACE}
    found: dict[str, None] = {}
    for flag, words, known in (("--cull", cull, CULL_KEYS), ("--by", by, every)):
        for word in (part.strip() for each in words for part in each.split(",")):
            if word not in known:
                raise UsageError(
                    f"{flag} {word or repr(word)}: there is no such key", f"Keys: {', '.join(known)}"
                )
            found[known[word]] = None
    return tuple(found) or (STACKTRACE,)
