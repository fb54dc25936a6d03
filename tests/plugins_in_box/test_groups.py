"""Sums of held folios."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump_page_pinner import groups
from mmdump_page_pinner.evidence import EXCESS, FOLL_PIN, PINNER
from mmdump_page_pinner.groups import GROUPS, fold_groups, group_table, groups_of, headline, released

TYPES = {
    "pfn": pl.Int64,
    "folio_evidence": pl.UInt8,
    "state": pl.String,
    "order": pl.Int64,
    "cma_area": pl.String,
    "owner_comm": pl.String,
    "owner_pid": pl.Int64,
    "owner_tgid": pl.Int64,
    "stack_id": pl.Int64,
    "get_stack_id": pl.Int64,
    "counted": pl.Boolean,
}


def frame(*rows: dict[str, object]) -> pl.DataFrame:
    base = {"folio_evidence": EXCESS, "state": "held", "order": 0, "counted": True}
    return pl.DataFrame([{**base, "pfn": pfn, **row} for pfn, row in enumerate(rows)], schema=TYPES)


SOME_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "folio_evidence": st.integers(1, 31),
            "state": st.sampled_from(["held", "released"]),
            "order": st.sampled_from([0, 9]),
            "cma_area": st.sampled_from([None, "a"]),
            "owner_comm": st.sampled_from([None, "dd"]),
            "owner_pid": st.sampled_from([None, 1, 2]),
            "owner_tgid": st.none(),
            "stack_id": st.sampled_from([None, 5]),
            "get_stack_id": st.sampled_from([None, 6]),
            "counted": st.booleans(),
        }
    ),
    max_size=40,
)


@given(SOME_ROWS, st.integers(1, 15))
def test_sums_do_not_depend_on_how_rows_are_cut(rows: list[dict[str, object]], step: int) -> None:
    whole = frame(*rows)
    parts = [groups_of(whole[at : at + step]) for at in range(0, len(whole), step)] or [groups_of(whole)]
    folded = fold_groups(pl.concat([fold_groups(pl.concat(parts[:2])), *parts[2:]]))
    once = groups_of(whole)
    assert folded.sort("first_pfn").equals(once.sort("first_pfn").select(folded.columns))
    assert once["pages"].sum() == len(rows)
    assert once["folios"].sum() == sum(bool(row["counted"]) for row in rows)


def test_a_folios_rows_are_one_folio_and_as_many_pages() -> None:
    [row] = groups_of(frame({}, {"counted": False}, {"counted": False})).to_dicts()
    assert (row["folios"], row["pages"], row["first_pfn"]) == (1, 3, 0)


def test_the_table_has_what_is_held_first_and_the_largest_before_the_others() -> None:
    rows = [{"state": "released", "folio_evidence": PINNER}] * 9
    rows += [{"owner_comm": "dd", "owner_pid": 5}] * 2 + [{"owner_comm": "fio", "owner_pid": 6}] * 3
    rows += [{"owner_comm": None, "owner_pid": None, "folio_evidence": PINNER | FOLL_PIN}] * 2
    table = group_table(groups_of(frame(*rows)), 4096)
    assert table.frame.columns == list(GROUPS.names)
    assert table.frame.select("state", "folios", "owner", "evidence").rows() == [
        ("held", 3, "fio 6", ["excess"]),
        ("held", 2, "dd 5", ["excess"]),
        ("held", 2, None, ["page_pinner", "foll_pin"]),
        ("released", 9, None, ["page_pinner"]),
    ]


def test_the_headline_says_how_many_by_what_and_whose() -> None:
    assert headline(groups_of(frame())) == "No page is held by anything that mmdump can see."
    assert headline(groups_of(frame({"state": "released"}))).startswith("No page is held")
    one = groups_of(frame({"owner_comm": "dd", "owner_pid": 5}))
    assert headline(one) == "1 folio held: 1 by unexplained references (allocated by dd 5)"
    rows = [{"folio_evidence": FOLL_PIN | EXCESS, "order": 9, "owner_comm": "vm"}] * 2 + [{}]
    assert headline(groups_of(frame(*rows))) == (
        "3 folios held: 2 large folios by FOLL_PIN (allocated by vm), "
        "1 by unexplained references (allocated by an unknown task)"
    )


def test_the_headline_names_the_largest_owners_and_counts_the_others() -> None:
    rows = [{"owner_pid": pid} for pid in range(8) for _ in range(8 - pid)]
    text = headline(groups_of(frame(*rows)))
    assert text.startswith("36 folios held: 8 by unexplained references (allocated by 0), 7 by")
    assert text.endswith("10 by others")


@pytest.mark.parametrize(("count", "words"), [(1, "1 more was marked"), (3, "3 more were marked")])
def test_what_was_released_is_a_finding(count: int, words: str) -> None:
    [finding] = released(groups_of(frame(*[{"state": "released", "counted": False}] * count)))
    assert finding.message.startswith(words)
    assert released(groups_of(frame({}))) == []


def test_groups_beyond_a_limit_are_lumped_by_evidence_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "_MAX_GROUPS", 20)
    rows = [{"owner_pid": pid, "owner_comm": f"c{pid}", "stack_id": pid} for pid in range(100)]
    rows += [{"owner_pid": 500, "owner_comm": "big", "stack_id": 1}] * 9
    whole = frame(*rows)
    small = fold_groups(pl.concat([groups_of(whole[at : at + 15]) for at in range(0, 109, 15)]))
    for found in (groups_of(whole), small):
        assert len(found) <= 20
        assert (found["folios"].sum(), found["pages"].sum()) == (109, 109)
        assert found.filter(pl.col("owner_comm") == "big")["folios"].to_list() == [9]
        assert found.filter(pl.col("owner_comm").is_null())["folios"].to_list() == [91]


def test_who_got_the_pages_is_shown_where_it_is_known() -> None:
    for handles, shown in (([None], False), ([None, 7], True)):
        rows = [{"get_stack_id": handle} for handle in handles]
        table = group_table(groups_of(frame(*rows)), 4096)
        assert table.schema.column("get_stack_id").in_text is shown
        assert len(table.frame) == len(handles)
