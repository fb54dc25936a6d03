"""What analyses say of their tables before there are any, held against tables of real answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mmdump.checking import CheckRun
from mmdump.info import info
from mmdump.plugins import load_plugins
from mmdump.result import Result, Table
from mmdump.scan import run
from mmdump.target import open_target
from tests.conftest import Sample
from tests.report.dumps import dump_of


def _results(vmcore: Path, symbols: Path | None = None) -> Iterator[tuple[type | None, Result]]:
    plugins = load_plugins(disabled=["*"])
    with open_target(vmcore, symbols=[symbols] if symbols else ()) as target:
        kernel = plugins.kernel(target)
        able = [
            each.for_report(kernel)
            for each in plugins.analyses().values()
            if each.name != "holders" and each().why_not(kernel) is None
        ]
        results = run(kernel, [*able, CheckRun(plugins.checks(), ())])
        yield from zip([type(each) for each in able] + [None], results, strict=True)
        yield None, info(kernel, plugins)


def _texts(table: Table, name: str) -> set[str]:
    column = table.frame[name]
    if isinstance(column.dtype, pl.List):
        column = column.explode()
    return set(column.cast(pl.String).drop_nulls().to_list())


def _held_against(vmcore: Path, symbols: Path | None = None) -> int:
    """Check all tables; returns how many texts of columns with a closed set there were."""
    seen = 0
    for analysis, result in _results(vmcore, symbols):
        known = {each.name: each for each in analysis.all_tables()} if analysis is not None else None  # type: ignore[attr-defined]
        if known is not None:
            assert next(iter(known)) == result.primary
        for table in result.tables.values():
            if known is not None:
                assert set(table.schema.names) <= set(known[table.name].names), (result.analysis, table.name)
            for column in table.schema.columns:
                if column.values:
                    found = _texts(table, column.name)
                    assert found <= set(column.values), (result.analysis, table.name, column.name)
                    seen += len(found)
    return seen


@pytest.mark.parametrize("scenario", ["balloon", "cma-failure", "corrupted", "leak", "thp"])
def test_tables_and_closed_sets_of_values_are_those_declared(scenario: str, tmp_path: Path) -> None:
    assert _held_against(dump_of(scenario, tmp_path)) > 5


def test_so_it_is_on_a_real_dump(sample: Sample) -> None:
    assert _held_against(sample.elf, sample.vmlinux) > 5
