"""The report of the real vmcore, and the map of its memory."""

from __future__ import annotations

import io
import json

import jsonschema
import pytest

from mmdump.document import Report
from mmdump.kernel import Kernel
from mmdump.kernel.running import host_names, module_names, task_names
from mmdump.plugins import load_plugins
from mmdump.render.report import REPORT_FORMATS
from mmdump.report import Choice, make_report
from mmdump.result import Severity
from mmdump.scan import run_one
from mmdump.target import open_target
from mmdump_pages import MemoryMap
from mmdump_pages.memory_map import USES
from tests.conftest import Sample
from tests.report.test_formats import MOST_HTML, MOST_TEXT, SCHEMA


@pytest.fixture(scope="module")
def report(sample: Sample) -> Report:
    plugins = load_plugins()
    with open_target(sample.elf, symbols=[sample.vmlinux]) as target:
        return make_report(Kernel(target, plugins.page_ext_clients()), plugins)


def written(report: Report, format_: str) -> bytes:
    out = io.BytesIO()
    REPORT_FORMATS[format_].write(report, out)
    return out.getvalue()


def test_it_tells_who_must_let_go_and_which_allocation_failed(report: Report) -> None:
    first, second = [each.finding for each in report.findings if each.finding.severity is Severity.PROBLEM]
    assert first.key == "cma-blocked"
    assert "8 by unexplained references (allocated by work 70)" in first.message
    assert "now held: 8 by pipe of pid 70 (work), fd 3, 4" in first.message
    assert second.key == "cma-failed"
    assert "16,384 pages (64 MiB) failed with EBUSY" in second.message
    # The page pinner's events tell how it came to that, and nothing else is worth a warning.
    [history] = [each.finding for each in report.findings if each.finding.severity is Severity.WARNING]
    assert history.message.startswith("6 held pages in CMA reserved that work 70 allocated stood in the way")
    assert not report.incomplete


def test_it_fits_into_every_format(report: Report) -> None:
    assert len(written(report, "txt")) <= MOST_TEXT
    assert len(written(report, "md")) <= MOST_TEXT
    assert len(written(report, "html")) <= MOST_HTML
    jsonschema.validate(json.loads(written(report, "json")), SCHEMA)


def test_a_redacted_report_names_no_task_and_no_kernel_address(sample: Sample) -> None:
    plugins = load_plugins()
    with open_target(sample.elf, symbols=[sample.vmlinux]) as target:
        kernel = Kernel(target, plugins.page_ext_clients())
        report = make_report(kernel, plugins, Choice(redact=True))
        names = task_names(target.prog)
        assert {"init", "work", "kswapd0", "thp-child"} <= set(names)
        assert host_names(target.prog) == []
        assert module_names(target.prog) == []
    for format_ in REPORT_FORMATS:
        text = written(report, format_).decode()
        assert "thp-child" not in text
        assert "kswapd0" not in text.replace("kswapd0_", "")
        assert "ff41fad0" not in text
        assert "0xffffffff" not in text


def test_the_map_agrees_with_the_kernels_own_files(kernel: Kernel, sample: Sample) -> None:
    result = run_one(kernel, MemoryMap())
    cells, [dma, dma32] = result.tables["cells"].frame, result.tables["totals"].frame.to_dicts()
    # PFN 0 and the last 32 pages of the last section are in no zone.
    assert cells["pages"].sum() == sum(zone.spanned for zone in kernel.zones) == 131072 - 33
    assert result.notes == [note for note in result.notes if note.startswith("Not counted: 132 KiB ")]
    assert (dma["zone"], dma32["zone"]) == ("DMA", "DMA32")
    assert sum(cells[use].sum() for use in USES[1:]) == 131072 - 33
    # cma_alloc() gave out half of the area, and nothing else lies there but what is free or blocks it.
    assert dma32["cma"] == int(sample.truth("cma_used.txt")) * 4096
    area = cells.filter(cells["migratetype"] == "CMA")
    assert area["pages"].sum() * 4096 == 64 << 20
    assert area["unmovable"].sum() == 0
    # 64 pages, a huge page, and 8 in the area.
    assert cells["pinned"].sum() == 64 + 512 + 8
