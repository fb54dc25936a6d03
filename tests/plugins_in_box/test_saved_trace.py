"""The page pinner's events from a saved text, whatever wrote it and whatever else is in it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UsageError
from mmdump_page_pinner.savedtrace import read_saved_trace

#: As the RFC's mail shows it: of an arm64 kernel with four columns of flags.
TRACE = """\
# tracer: nop
           <...>-498     [006] .... 33306.301621: page_pinner_failure: pfn=0x9f0bb0 flags=uptodate|lru|swapbacked count=1 mapcount=0 mapping=00000000aec7812a mt=5
           <...>-498     [006] .... 33306.301625: <stack trace>
 => __page_pinner_failure
 => test_pages_isolated
 => alloc_contig_range
 => cma_alloc
 => cma_heap_allocate
 => dma_heap_ioctl
    some-task-24965   [001] .... 33306.392836: page_pinner_put: pfn=0x9f0bb0 flags=uptodate|lru|swapbacked count=0 mapcount=0 mapping=00000000aec7812a mt=5
    some-task-24965   [001] .... 33306.392846: <stack trace>
 => __page_pinner_put
 => release_pages
 => free_pages_and_swap_cache
 => tlb_flush_mmu_free
"""  # noqa: E501
REPORT = """\
cpus=8
           <...>-498   [006] 33306.301621: page_pinner_failure:  pfn=0x9f0bb0 flags=lru count=1
           <...>-498   [006] 33306.301625: kernel_stack:         <stack trace >
=> __page_pinner_failure (ffffffc0101b7a30)
=> test_pages_isolated (ffffffc0101b7a30)
=> alloc_contig_range+0x10/0x20 (ffffffc0101b7a30)
=> cma_alloc (ffffffc0101b7a30)
=> cma_heap_allocate (ffffffc0101b7a30)
=> dma_heap_ioctl (ffffffc0101b7a30)
       some-task-24965 [001] 33306.392836: page_pinner_put:      pfn=0x9f0bb0 flags= count=0
       some-task-24965 [001] 33306.392846: kernel_stack:         <stack trace >
=> __page_pinner_put (ffffffc0101b7a30)
=> release_pages (ffffffc0101b7a30)
"""
SECOND = """\
     kworker/0:1-7   (      7) [000] d..2.  1.000001: report_page_pinners: pfn=0x10 flags= count=3 mapcount=0 mapping=0 mt=1 reason=contig_range err=-11
            work-9   (-------) [000] .....  2.5: page_pin_owner_put: pfn=0x10 flags= count=2 mapcount=0 mapping=0 mt=1
            work-9   (-------) [000] .....  2.6: page_ref_mod: pfn=0x10 flags= count=2 mapcount=0 mapping=0 mt=1 val=1
            work-9   (-------) [000] .....  2.7: page_ref_mod_unless: pfn=0x10 flags= count=2 mapcount=0 mapping=0 mt=1 val=1 ret=0
"""  # noqa: E501


def _read(tmp_path: Path, text: str | bytes) -> tuple[list[dict[str, object]], list[tuple[str, ...]]]:
    path = tmp_path / "saved trace"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = read_saved_trace(path)
    return found.frame.to_dicts(), list(found.functions)


@pytest.mark.parametrize(
    "text", [TRACE, REPORT, TRACE.replace("\n", "\r\n")], ids=["trace", "trace-cmd", "CR"]
)
def test_events_and_their_stacks_are_found(tmp_path: Path, text: str) -> None:
    rows, chains = _read(tmp_path, text)
    failure, put = rows
    assert (failure["event"], failure["pfn"], failure["time"]) == ("failure", 0x9F0BB0, 33306301621000)
    assert (failure["pid"], failure["comm"], failure["refcount"]) == (498, None, 1)
    assert (put["event"], put["pid"], put["comm"]) == ("put", 24965, "some-task")
    assert chains[0] == (
        *("__page_pinner_failure", "test_pages_isolated", "alloc_contig_range", "cma_alloc"),
        *("cma_heap_allocate", "dma_heap_ioctl"),
    )
    assert chains[1][:2] == ("__page_pinner_put", "release_pages")
    assert [failure["chain"], put["chain"]] == [0, 1]


def test_the_second_version_of_the_rfc_and_page_ref_are_read_alike(tmp_path: Path) -> None:
    rows, _ = _read(tmp_path, SECOND)
    assert [row["event"] for row in rows] == ["failure", "put", "get", "change"]
    assert rows[0]["reason"] == "contig_range, error -11"
    assert rows[0]["comm"] == "kworker/0:1"
    assert rows[1]["time"] == 2_500_000_000


def test_a_stack_of_another_task_is_not_taken_for_the_events(tmp_path: Path) -> None:
    text = TRACE.replace(
        "-498     [006] .... 33306.301625: <stack", "-499     [006] .... 33306.301625: <stack"
    )
    rows, _ = _read(tmp_path, text)
    assert [row["chain"] for row in rows] == [None, 0]


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no event of the page pinner"):
        _read(tmp_path, "nothing\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_saved_trace(tmp_path / "none")


def test_lost_events_and_events_without_a_page_are_said(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    odd = TRACE.splitlines()[1].replace("pfn=0x9f0bb0", "pfn=nothing")
    path.write_text(TRACE + "CPU:3 [LOST 5 EVENTS]\n" + odd + "\n")
    found = read_saved_trace(path)
    assert found.overrun == 1
    assert len(found.notes) == 2
    assert len(found.frame) == 2


@given(
    st.lists(
        st.one_of(st.binary(max_size=200), st.sampled_from([line.encode() for line in TRACE.splitlines()]))
    )
)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(b"\n".join(lines))
    try:
        found = read_saved_trace(path)
    except UsageError:
        return
    assert found.frame["pfn"].to_list() == [0x9F0BB0] * len(found.frame)
    assert found.frame["chain"].drop_nulls().is_between(0, len(found.chains) - 1).all()


def test_a_line_without_an_end_does_not_take_long(tmp_path: Path) -> None:
    rows, _ = _read(tmp_path, TRACE.encode() + b"a" * (1 << 22) + b"=" * (1 << 20) + b" => x" * (1 << 18))
    assert len(rows) == 2
    assert pl.DataFrame(rows)["event"].to_list() == ["failure", "put"]
