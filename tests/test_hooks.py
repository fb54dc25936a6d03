"""Every hook, from a plugin that implements it to what its user sees."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mmdump.analysis import Analysis, Parts
from mmdump.checking import CheckRun
from mmdump.checks import Check, Violations
from mmdump.holders import Recogniser
from mmdump.kernel import Kernel
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import PageExtClient
from mmdump.kernelfile import KernelFile, find_kernel_file
from mmdump.pageinfo import page_info
from mmdump.pagenotes import AskedPages, Fact, PageNotes, Section
from mmdump.pagewords import find_page
from mmdump.plugins import Plugins, load_plugins
from mmdump.render import FormatSpec, OneTable, open_renderer
from mmdump.result import Column, Kind, Result, Schema, Table
from mmdump.scan import Ranges, run_one
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.scenario import Scenario
from mmdump_snapshots.writer.image import build
from tests.test_plugins import Point, plugin

NUMBERS = Schema("numbers", (Column("pages", Kind.COUNT),))


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    kernel = profile("6.12")
    machine = Machine(kernel.era, memory=64 << 20, boot=Boot(page_table_check=True))
    return Kernel(build(machine, kernel).target())


def only(module: SimpleNamespace) -> Plugins:
    """Nothing but one plugin."""
    return load_plugins(points=[Point("mine", module)])


class Free(Analysis):
    """Counts free pages."""

    name, summary = "free", "free pages"

    def scan(self, pages: PageRange, state: object) -> dict[str, dict[str, object]]:
        return {"free": {"row": np.flatnonzero(pages.in_free_block)}}

    def finish(self, kernel: Kernel, state: object, parts: Parts) -> Result:
        table = Table(NUMBERS, pl.DataFrame({"pages": [parts["free"].height]}))
        return Result(self.name, tables={"numbers": table}, primary="numbers")


def test_mmdump_analyses(kernel: Kernel) -> None:
    plugins = only(plugin(mmdump_analyses=lambda: [Free]))
    result = run_one(kernel, plugins.analyses()["free"]())
    assert result.tables["numbers"].frame["pages"][0] > 1000
    assert result.coverage is not None
    assert result.coverage.complete


def test_mmdump_page_ext_clients(kernel: Kernel) -> None:
    mine = PageExtClient(
        "page_table_check",
        ops="page_table_check_ops",
        struct="struct page_table_check",
        members={"anon": ("anon_map_count",)},
    )
    plugins = only(plugin(mmdump_page_ext_clients=lambda: [mine]))
    other = Kernel(kernel.target, plugins.page_ext_clients())
    assert other.page_ext.enabled("page_table_check")
    pages = other.pages(*next(other.memmap.chunks()), ext=True)
    assert pages.ext is not None
    assert pages.ext["page_table_check"]["anon"].dtype == np.dtype("<i4")


def test_mmdump_kernel_files(kernel: Kernel) -> None:
    def read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
        for pages in ranges:
            yield f"{len(pages)}\n".encode()

    plugins = only(plugin(mmdump_kernel_files=lambda: [KernelFile("/proc/mine", "mine", read)]))
    file = find_kernel_file(plugins.kernel_files(), "mine")
    assert b"".join(file.read(kernel, Ranges(kernel))) == b"32768\n"


def test_mmdump_page_notes(kernel: Kernel) -> None:
    def notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
        return {pfn: [Section("mine", [Fact("twice", 2 * pfn, Kind.COUNT)])] for pfn in asked.pfns}

    plugins = only(plugin(mmdump_page_notes=lambda: [PageNotes("mine", notes)]))
    result = page_info(kernel, plugins, [find_page(kernel, "0x1000")])
    facts = result.tables["facts"].frame
    assert facts.filter(pl.col("section") == "mine")["number"].to_list() == [0x2000]


def test_mmdump_holders() -> None:
    # What a recogniser finds in memory is tested with the plugin that searches.
    mine = Recogniser("mine", lambda case: [])
    assert only(plugin(mmdump_holders=lambda: [mine])).recognisers() == [mine]


class Nothing(Check):
    """Something that never holds."""

    name, summary = "nothing", "no page is in use"

    def scan(self, pages: PageRange, state: object) -> list[Violations]:
        rows = np.flatnonzero(pages.refcount > 0)[:3]
        return [Violations("used {refcount} times", rows, {"refcount": pages.refcount})]


def test_mmdump_checks(kernel: Kernel) -> None:
    plugins = only(plugin(mmdump_checks=lambda: [Nothing]))
    result = run_one(kernel, CheckRun(plugins.checks()))
    assert [finding.key for finding in result.findings] == ["check-nothing"]


class Sums(OneTable):
    """One number for each row."""

    def head(self, schema: Schema) -> None:
        self.out.write(f"{schema.name}:".encode())

    def body(self, schema: Schema, frame: pl.DataFrame) -> None:
        self.out.write("".join(f" {sum(row)}" for row in frame.iter_rows()).encode())


def test_mmdump_renderers() -> None:
    mine = FormatSpec("sums", Sums, one_table=True, suffixes=(".sums",))
    plugins = only(plugin(mmdump_renderers=lambda: [mine]))
    out = io.BytesIO()
    table = Table(NUMBERS, pl.DataFrame({"pages": [1, 2]}))
    result = Result("mine", tables={"numbers": table}, primary="numbers")
    open_renderer("sums", out, formats=plugins.formats()).finish(result)
    assert out.getvalue() == b"numbers: 1 2"


def test_mmdump_scenarios() -> None:
    ran = []
    mine = Scenario("mine", "nothing happens", ran.append, memory=64 << 20)
    plugins = only(plugin(mmdump_scenarios=lambda: [mine]))
    image = plugins.scenarios()["mine"].image(profile("6.12"))
    assert len(ran) == 1
    assert Kernel(image.target()).memmap.pages == 32768
