"""``mmdump pages``: the page array as rows, of which only what is asked for is read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.render import Query, RenderOptions, open_renderer
from mmdump.scan import run_one
from mmdump_pages import Pages
from mmdump_pages.columns import DTYPES, EXT_COLUMNS, PAGES, READ
from mmdump_snapshots.kernels import profile, profiles
from mmdump_snapshots.scenarios import SCENARIOS

BOX = load_plugins(disabled=["*"])
BY_NAME = {each.name: each for each in SCENARIOS}


def machine(kernel: str = "6.12", scenario: str = "thp") -> Kernel:
    return Kernel(BY_NAME[scenario].image(profile(kernel)).target(), BOX.page_ext_clients())


def written(kernel: Kernel, form: str, **query: object) -> bytes:
    out = io.BytesIO()
    renderer = open_renderer(form, out, RenderOptions(query=Query.parse(**query)))
    renderer.finish(run_one(kernel, Pages(), renderer))
    return out.getvalue()


@pytest.mark.parametrize("name", profiles())
def test_rows_are_what_the_columns_of_the_page_array_are(name: str) -> None:
    kernel = machine(name)
    frame = run_one(kernel, Pages()).tables["pages"].frame
    assert len(frame) == kernel.memmap.pages
    at = 0
    for start, end in kernel.memmap.chunks():
        pages = kernel.pages(start, end)
        part = frame.slice(at, end - start)
        at += end - start
        for column, values in (
            ("pfn", pages.pfn),
            ("flags_word", pages.flags),
            ("refcount", pages.refcount),
            ("mapping", pages.mapping),
            ("head_pfn", pages.head_pfn),
            ("free", pages.in_free_block),
        ):
            assert np.array_equal(part[column].to_numpy(), values), column
        assert np.array_equal((part["page_type"] == "buddy").fill_null(False).to_numpy(), pages.is_buddy)
        heads = np.flatnonzero(pages.is_head)
        assert part["order"].gather(heads).to_list() == pages.folio_order[heads].tolist()
        assert part["folio_mapcount"].gather(heads).to_list() == pages.folio_mapcount(heads).tolist()
        assert (part["compound"] == "tail").sum() == np.count_nonzero(pages.is_tail)


def test_every_column_has_a_type_and_a_way_to_be_read() -> None:
    assert set(DTYPES) == set(PAGES.names)
    assert set(PAGES.names) - set(READ) == EXT_COLUMNS - {"page_pinner"}
    assert run_one(machine(), Pages()).tables["pages"].frame.schema == pl.Schema(DTYPES)


@pytest.mark.parametrize("column", PAGES.names)
def test_a_column_alone_is_the_same_as_among_all(column: str) -> None:
    kernel = machine(scenario="cma-failure")
    whole = run_one(kernel, Pages()).tables["pages"].frame
    alone = run_one(kernel, Pages().only(frozenset([column]))).tables["pages"].frame
    assert alone[column].equals(whole[column], null_equal=True)
    others = [name for name in PAGES.names if name != column]
    assert all(alone[name].null_count() == len(alone) for name in others)


def test_what_nobody_asks_for_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine()
    read: list[bool] = []
    pages = kernel.pages

    def spy(start: int, end: int, *, ext: bool = False, blocks: bool = True) -> object:
        read.append(ext)
        return pages(start, end, ext=ext, blocks=blocks)

    monkeypatch.setattr(kernel, "pages", spy)
    monkeypatch.setattr(Kernel, "folio_batches", property(lambda _: 1 / 0))
    monkeypatch.setattr(Kernel, "stack_depot", property(lambda _: 1 / 0))
    assert written(kernel, "csv", columns="pfn,refcount", where="order > 2").startswith(b"pfn,refcount\n")
    assert read
    assert not any(read)


def test_a_condition_may_be_on_columns_that_are_not_shown() -> None:
    out = written(machine(), "csv", columns="pfn", where="page_type = 'buddy' AND buddy_order = 10")
    lines = out.decode().split()
    assert lines[0] == "pfn"
    assert len(lines) > 2
    assert all(int(pfn) % 1024 == 0 for pfn in lines[1:])


def test_pages_that_are_not_in_the_dump_have_no_values(tmp_path: Path) -> None:
    kernel = machine()
    start, end = next(kernel.memmap.chunks())
    pages = kernel.pages(start, end)
    pages.status[5:9] = 2
    pages.__dict__.pop("readable", None)
    analysis = Pages()
    state = analysis.start(kernel)
    columns = analysis.scan(pages, state)["pages"]
    frame = analysis.batch({"pages": pl.DataFrame(dict(columns))}, state)["pages"]
    lost = frame.slice(5, 4)
    assert lost["status"].to_list() == ["unreadable"] * 4
    assert lost["pfn"].to_list() == [5, 6, 7, 8]
    others = [name for name in PAGES.names if name not in ("pfn", "phys", "page", "status")]
    assert all(lost[name].null_count() == 4 for name in others)


# Parquet


def test_parquet_holds_the_rows_with_their_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine()
    whole = run_one(kernel, Pages()).tables["pages"].frame
    assert pl.read_parquet(io.BytesIO(written(kernel, "parquet"))).equals(whole, null_equal=True)
    # In several parts, the same.
    monkeypatch.setattr("mmdump.render.parquet._PART_ROWS", 1 << 12)
    several = written(kernel, "parquet")
    assert pl.read_parquet(io.BytesIO(several)).equals(whole, null_equal=True)
    assert pl.read_parquet_metadata(io.BytesIO(several)) is not None


def test_parquet_without_rows_has_its_columns() -> None:
    out = written(machine(), "parquet", where="pfn < 0", columns="pfn,zone")
    assert pl.read_parquet(io.BytesIO(out)).columns == ["pfn", "zone"]


def test_parquet_that_is_sorted_is_in_order() -> None:
    out = written(machine(), "parquet", columns="pfn,refcount", sort="-refcount", limit=50)
    frame = pl.read_parquet(io.BytesIO(out))
    assert len(frame) == 50
    assert frame["refcount"].is_sorted(descending=True)
