"""Who holds pages now, of the holders that a search of memory has found, in words."""

from __future__ import annotations

import polars as pl

__all__ = ["held_now"]

#: Holders that are named.
_NAMED = 4


def held_now(holders: pl.DataFrame, folios: int) -> list[str]:
    """``8 by pipe of pid 70 (work), fd 3``, and how many by what was not found; nothing where that is all.

    :param holders: Rows of table ``holders`` of mmdump holders: those of the folios that are asked about.
    :param folios: How many of these are held.
    """
    # Mappings and the page cache are no answer: a page that only they refer to is not held.
    live = holders.filter(
        pl.col("state") == "live",
        pl.col("references") > 0,
        pl.col("counted").is_in(["reference", "pin"]),
    )
    if not len(live):
        return []
    by = (
        live.with_columns(
            who=pl.coalesce(
                pl.when(pl.col("held_by") != "").then(pl.col("held_by")), "name", pl.lit("nobody with a name")
            )
        )
        .group_by("kind", "who")
        .agg(pl.col("pfn").n_unique().alias("folios"))
        .sort("folios", "kind", "who", descending=[True, False, False])
    )
    parts = [f"{row['folios']} by {row['kind']} of {row['who']}" for row in by.head(_NAMED).to_dicts()]
    if len(by) > _NAMED:
        parts.append(f"and {len(by) - _NAMED} other holders")
    unknown = folios - live["pfn"].n_unique()
    if unknown > 0:
        parts.append(f"{unknown} by what was not found")
    return parts
