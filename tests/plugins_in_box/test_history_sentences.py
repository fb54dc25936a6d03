"""Where to look for who holds pages is said of those whose holder was not found, and of no others."""

from __future__ import annotations

import polars as pl
import pytest

from mmdump_holders.tables import HOLDERS, summary_of
from mmdump_page_pinner.history import HISTORY, ROW_TYPES, timelines_of
from mmdump_page_pinner.sentences import history_findings

LOOK = "Pages that the same call chain allocated were put by pipe_read: look there for a get without a put"


def _timelines() -> pl.DataFrame:
    """Pages 16 (a tail of 15) and 17 are held; 20, of the same call chain, was put by its reader."""
    row = {"cma_area": "reserved", "owner_comm": "work", "owner_pid": 7, "stack_id": 5, "owner_ts_nsec": 1}
    states = ((16, 15, "held"), (17, 17, "held"), (20, 20, "released"))
    pages = pl.DataFrame(
        [{"pfn": pfn, "head_pfn": head, "state": state, **row} for pfn, head, state in states],
        schema=ROW_TYPES,
    )
    put = {"event": "put", "class": "user", "holder": "pipe", "function": "pipe_read", "who": "work 7"}
    events = [
        {"pfn": pfn, "time": 2, "event": "failure", "function": "cma_alloc", "who": "init 1"}
        for pfn in (16, 17, 20)
    ]
    names = [name for name in HISTORY.names if name != "stack"]
    types = dict.fromkeys([*names, "purpose"], pl.String) | {"pfn": pl.Int64, "time": pl.UInt64}
    frame = pl.DataFrame([*events, {"pfn": 20, "time": 3, **put}], schema=types)
    return timelines_of(frame.with_columns(former=False), pages)


def _holders(*rows: tuple[int, str, str, int, str]) -> pl.DataFrame:
    names = ("pfn", "state", "kind", "references", "counted")
    assert set(names) < set(HOLDERS.names)
    frame = pl.DataFrame(rows, schema=dict(zip(names, (int, str, str, int, str), strict=True)), orient="row")
    return frame.with_columns(held_by=pl.lit("pid 7 (work), fd 3"), name=pl.lit(None, pl.String))


def _told(holders: pl.DataFrame | None) -> str:
    [held, _] = history_findings(_timelines(), 0, holders)
    return held.message


@pytest.mark.parametrize(
    "holders",
    [
        None,
        _holders(),
        _holders((15, "stale", "pipe", 1, "reference"), (17, "possible", "slab", 1, "reference")),
        # Of the page cache they have references that are accounted for.
        _holders((15, "live", "page cache", 1, "cache"), (17, "live", "pipe", 0, "none")),
        _holders((99, "live", "pipe", 1, "reference")),
    ],
    ids=["not searched", "none", "not live", "no reference of their own", "of another page"],
)
def test_without_a_holder_it_is_said(holders: pl.DataFrame | None) -> None:
    told = _told(holders)
    assert told.endswith(f"and has no put yet. {LOOK} (pipe).")
    assert "now held" not in told


def test_with_holders_they_are_named_instead() -> None:
    told = _told(_holders((15, "live", "pipe", 1, "reference"), (17, "live", "pipe", 1, "reference")))
    assert told.endswith("and has no put yet; now held: 2 by pipe of pid 7 (work), fd 3.")


def test_those_of_which_none_was_found_are_counted() -> None:
    told = _told(_holders((15, "live", "gup_test", 1, "pin")))
    assert told.endswith("; now held: 1 by gup_test of pid 7 (work), fd 3, 1 by what was not found.")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ([0, 0], " besides what each page's own counts explain"),
        ([0, 3], ", and 1 of them has references that nothing explains"),
        ([1, 3], ", and 2 of them have references that nothing explains"),
        ([1], ", and it has references that nothing explains"),
    ],
)
def test_what_nothing_explains_is_not_called_explained(missing: list[int], words: str) -> None:
    folios = "1 folio" if len(missing) == 1 else "2 folios"
    told = summary_of([], pl.DataFrame({"missing": missing}))
    assert told == f"{folios} searched for: no holder was found{words}."
