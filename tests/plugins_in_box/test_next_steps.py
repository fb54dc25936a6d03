"""Where something is unknown, what to do next is said."""

from __future__ import annotations

import polars as pl
import pytest

from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_holders.tables import _findings
from mmdump_page_pinner import Pinned

from .test_page_notes import machine


def pinned(kernel: str, **options: bool) -> Result:
    return run_one(machine(kernel=kernel), Pinned(**options))


@pytest.mark.parametrize("kernel", ["4.19", "5.4", "5.10"])
def test_where_records_name_no_task_the_call_chain_and_the_search_are_pointed_to(kernel: str) -> None:
    result = pinned(kernel)
    [note] = [each for each in result.notes if each.startswith("OWNER is unknown")]
    assert "no pid and no comm" in note
    assert "--table stacks" in note
    assert "--holders" in note
    assert result.tables["stacks"].frame["frames"].list.len().max()
    [note] = [each for each in pinned(kernel, holders=True).notes if each.startswith("OWNER is unknown")]
    assert "--holders" not in note


@pytest.mark.parametrize("kernel", ["5.15", "6.12"])
def test_where_records_name_the_task_nothing_is_missed(kernel: str) -> None:
    assert not [each for each in pinned(kernel).notes if "OWNER is unknown" in each]


@pytest.mark.parametrize(
    ("missing", "possible", "words"),
    [
        (
            [3, 3, 0],
            [2, 0, 0],
            ["2 folios have", "names them", "may hold 1 of them", "if that does not, trace"],
        ),
        ([0, 1, 0], [0, 1, 0], ["1 folio has", "names it", "state = 'possible'", "may hold it"]),
        ([1, 0, 0], [0, 1, 0], ["nothing else in memory points to it: trace page_ref:*"]),
    ],
)
def test_where_no_holder_was_found_the_next_place_to_look_is_named(
    missing: list[int], possible: list[int], words: list[str]
) -> None:
    balance = pl.DataFrame({"missing": missing, "possible": possible, "surplus": [0, 0, 0]})
    [finding] = _findings(balance)
    assert finding.key == "holder-missing"
    assert '--table balance --where "missing > 0"' in finding.message
    for each in words:
        assert each in finding.message


def test_a_condition_that_a_finding_names_selects_its_rows() -> None:
    # A codec's driver has pages of it in an array of its own, which is in no memory.
    result = run_one(machine("cma-shared"), Pinned(holders=True))
    [finding] = [each for each in result.findings if each.key == "holder-missing"]
    frame = result.tables["balance"].frame.filter(pl.col("missing") > 0)
    assert finding.message.startswith(f"{len(frame)} folios have references")
