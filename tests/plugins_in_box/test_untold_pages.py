"""Pages that the trace saw, and of which the dump does not tell what became of them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mmdump.kernel.page_ext import PageExtRange
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump.target import ReadStatus
from mmdump_page_pinner import Pinned

from .test_page_notes import machine


def states(result: Result) -> dict[int, str]:
    frame = result.tables["timelines"].frame
    return dict(frame.select("pfn", "state").iter_rows())


@pytest.fixture(scope="module")
def whole() -> dict[int, str]:
    found = states(run_one(machine(), Pinned()))
    assert set(found.values()) == {"held", "released"}
    return found


def test_without_page_ext_nobody_knows_which_pages_were_marked(
    monkeypatch: pytest.MonkeyPatch, whole: dict[int, str]
) -> None:
    init = PageExtRange.__init__

    def lost(self: PageExtRange, pieces: list[np.ndarray], status: np.ndarray, layout: object) -> None:
        nothing = [np.zeros_like(piece) for piece in pieces]
        init(self, nothing, np.full_like(status, ReadStatus.UNREADABLE), layout)  # type: ignore[arg-type]

    monkeypatch.setattr(PageExtRange, "__init__", lost)
    result = run_one(machine(), Pinned())
    assert states(result) == {pfn: "held" if state == "held" else "unknown" for pfn, state in whole.items()}
    assert result.coverage is not None
    assert result.coverage.page_ext is not None
    assert not result.coverage.page_ext.read
    [told] = [each.message for each in result.findings if each.key == "cma-blocked"]
    assert "16 pages block it: 12 by FOLL_PIN (allocated by an unknown task)" in told


def test_a_page_without_its_struct_page_may_be_held(
    monkeypatch: pytest.MonkeyPatch, whole: dict[int, str]
) -> None:
    kernel = machine()
    [released] = [pfn for pfn, state in whole.items() if state == "released"]
    address = kernel.memmap.address(released)
    read = kernel.target.reader.read

    def torn(at: int, size: int) -> object:
        chunk = read(at, size)
        page = chunk.page_size
        if at <= address < at + size:
            chunk.status[(address // page) - (at // page)] = ReadStatus.UNREADABLE
            chunk.complete = False
        return chunk

    monkeypatch.setattr(kernel.target.reader, "read", torn)
    assert states(run_one(kernel, Pinned()))[released] == "unknown"


def test_a_page_that_is_neither_held_nor_marked_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine()
    from mmdump_page_pinner import analysis

    real = analysis.read_witnesses(kernel)
    pages = kernel.pages(0xF000, 0x10000)
    free = pages.start + int(np.flatnonzero(pages.is_buddy)[0])
    moved = real.frame.with_columns(pl.lit(free, pl.Int64).alias("pfn"))
    monkeypatch.setattr(
        analysis,
        "read_witnesses",
        lambda _kernel: type(real)(moved, real.chains, real.functions),
    )
    assert states(run_one(kernel, Pinned())) == {free: "gone"}
