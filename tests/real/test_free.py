"""Free memory of the real vmcore: sources that must agree with each other, and the kernel's own files."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from mmdump.kernel import Kernel
from mmdump.result import Result
from mmdump.scan import Ranges, run_one
from mmdump_buddy import Buddy
from mmdump_buddy.files import FILES
from mmdump_buddy.pagetypeinfo import PAGETYPEINFO
from mmdump_page_reporting import Reported
from tests.conftest import Sample

BUDDYINFO = FILES[0]


@pytest.fixture(scope="module")
def buddy(kernel: Kernel) -> Result:
    return run_one(kernel, Buddy(want=9))


def test_lists_page_array_and_counters_agree(buddy: Result) -> None:
    assert buddy.findings == []
    assert not buddy.incomplete
    orders = buddy.tables["orders"].frame
    assert (orders["blocks"] == orders["nr_free"]).all()
    assert (orders["blocks"] == orders["listed"]).all()
    zones = buddy.tables["zones"].frame
    assert (zones["free"] == zones["nr_free_pages"]).all()
    assert (zones["cma"] == zones["nr_free_cma"]).all()


def test_every_list_is_in_the_pageblocks_of_its_migratetype(buddy: Result) -> None:
    # Linux 6.10 and newer keep it so.
    assert buddy.tables["free"].frame["other_pageblocks"].sum() == 0


def test_watermarks_and_sizes_are_those_of_zoneinfo(buddy: Result, sample: Sample) -> None:
    text = sample.truth("zoneinfo.txt").decode()
    zones = {row["zone"]: row for row in buddy.tables["zones"].frame.to_dicts()}
    for name, body in re.findall(r"Node 0, zone +(\w+)\n(.*?)(?=\nNode|\Z)", text, re.S):
        theirs = {key: int(value) for key, value in re.findall(r"^ +(?:pages )?(\w+) +(\d+)$", body, re.M)}
        if not theirs["present"]:
            continue
        row = zones.pop(name)
        for key in ("min", "low", "high", "boost", "managed", "present"):
            assert row[key] == theirs[key] * 4096, (name, key)
        # A moment passed before the dump.
        assert abs(row["nr_free_pages"] // 4096 - theirs["free"]) <= 0.005 * theirs["free"]
        assert row["nr_free_cma"] == theirs["nr_free_cma"] * 4096
        counts = [int(count) for count in re.findall(r"^ +count: (\d+)$", body, re.M)]
        assert abs(row["pcp"] // 4096 - sum(counts)) <= 256
    assert not zones


def test_pagetypeinfo_is_the_kernels_but_for_what_moved(kernel: Kernel, sample: Sample) -> None:
    ours = b"".join(PAGETYPEINFO.read(kernel, Ranges(kernel, ext=True))).decode().splitlines()
    theirs = sample.truth("pagetypeinfo.txt").decode().splitlines()
    differ = [(mine, kernels) for mine, kernels in zip(ours, theirs, strict=False) if mine != kernels]
    # Of 21 lines; in the others some blocks were split or merged since.
    assert len(differ) <= 4
    for mine, kernels in differ:
        start = re.match(r"Node +0, zone +\w+, type +\w+ ", mine)
        assert start
        assert kernels.startswith(start[0])
        counts = [np.array(line[start.end() :].split(), int) for line in (mine, kernels)]
        assert np.abs(counts[0] - counts[1]).max() <= 40


def test_buddyinfo_is_the_kernels_but_for_what_moved(kernel: Kernel, sample: Sample) -> None:
    ours = b"".join(BUDDYINFO.read(kernel, Ranges(kernel))).decode().splitlines()
    theirs = sample.truth("buddyinfo.txt").decode().splitlines()
    assert ours[0] == theirs[0]
    assert len(ours) == len(theirs)


def test_what_is_reported_are_large_blocks_of_a_zone_with_enough_memory(
    kernel: Kernel, sample: Sample
) -> None:
    result = run_one(kernel, Reported())
    assert result.findings == []
    [device] = result.tables["device"].frame.to_dicts()
    assert device["page_reporting_order"] == int(sample.truth("page_reporting_order.txt"))
    assert device["report"].startswith("virtballoon_free_page_report+0x0/")
    told = result.tables["blocks"].frame.filter(pl.col("why") == "reported")
    assert told["order"].unique().to_list() == [10]
    assert told["size"].sum() == 84 << 20
    assert told["zone"].unique().to_list() == ["DMA32"]
