"""What the test bed's checks say of answers that are right and wrong."""

from __future__ import annotations

from typing import Any

from testbed.conformance import compare, page_owner_records
from testbed.held import Expected, expected, failures_in_trace, judge
from testbed.truth import parse_truth

TRUTH = """\
longpinhuge pid=64 io_uring fd=3 ret=0 head pfn=0x2c00 first pinned pfn=0x2c10
longpin pid=63 fd=3 ret=0
longpin pfn=0x17fba
splice pid=70 pinned pfn=0x10 va=0x7f4b6171f000
splice pid=70 pinned pfn=0x11 va=0x7f4b61769000
splice pages in cma=897 pinned=2
drained 1
"""
WAITING = """\
dio pid=109 fd=3 disk=/dev/vda requests=16
dio pid=109 fd=3 how=aio op=read request=8 va=0x7f86ca60d000 pfn=0x20
aioring pid=109 va=0x7fb361bb1000 pfn=0x21
loop pid=113 fd=5 how=aio op=read request=0 va=0x7f1983fe3000 pfn=0x22
tcp pid=116 sender fd=5 receiver fd=6 bytes=16384
tcp queue=send pid=116 fd=8 source=zerocopy pfn=0x23 head pfn=0x23
unix queue=receive pid=119 fd=5 source=splice pfn=0x24 head pfn=0x24
tee pid=122 fd=8 source=file pfn=0x103 head pfn=0x100
"""


def _row(pfn: int, *evidence: str, state: str = "held") -> dict[str, Any]:
    return {"pfn": pfn, "evidence": list(evidence), "state": state, "kind": "anon"}


RIGHT = [
    _row(0x10, "page_pinner", state="released"),
    _row(0x11, "page_pinner", "excess"),
    _row(0x2C00, "foll_pin"),
    _row(0x17FBA, "foll_pin"),
]


def test_the_first_pages_into_the_pipe_are_the_first_out() -> None:
    want = expected(parse_truth(TRUTH))
    assert want == Expected(frozenset({0x11}), frozenset({0x10}), frozenset({0x2C00, 0x17FBA}))


def test_a_right_answer_is_right() -> None:
    assert judge(RIGHT, expected(parse_truth(TRUTH)), {0x10, 0x11}).wrong == []


def test_a_held_page_that_is_missing_or_too_many_is_wrong() -> None:
    want = expected(parse_truth(TRUTH))
    assert "in the pipe" in judge([*RIGHT[:1], *RIGHT[2:]], want, set()).wrong[0]
    assert "nobody said so" in judge([*RIGHT, _row(0x99, "excess")], want, set()).wrong[0]
    drained = [_row(0x10, "excess"), *RIGHT[1:]]
    assert "left the pipe" in judge(drained, want, set()).wrong[0]


def test_what_waits_in_io_or_in_a_queue_is_held_with_a_pin_or_without() -> None:
    want = expected(parse_truth(TRUTH + WAITING))
    assert want.waiting == {0x20, 0x21, 0x22, 0x23, 0x24, 0x100}
    assert want.pinned == {0x2C00, 0x17FBA}
    waiting = [_row(pfn, "excess") for pfn in sorted(want.waiting - {0x20})]
    right = [*RIGHT, _row(0x20, "foll_pin"), *waiting]
    assert judge(right, want, {0x10, 0x11}).wrong == []
    [missing] = judge([*RIGHT, *waiting], want, {0x10, 0x11}).wrong
    assert missing.startswith("0x20 is in I/O")


def test_a_failure_in_the_trace_wants_a_mark() -> None:
    want = expected(parse_truth(TRUTH))
    trace = "init-92 [001] ..... 7.522679: page_pinner_failure: pfn=0x11 flags=lru count=2 mt=5\n"
    failures = failures_in_trace(trace)
    assert failures == {0x11}
    unmarked = [RIGHT[0], _row(0x11, "excess"), *RIGHT[2:]]
    assert any("no mark" in each for each in judge(unmarked, want, failures).wrong)


def test_only_records_that_stood_still_must_be_equal() -> None:
    before = b"\1" + bytes(7) + b"\2" + bytes(7)
    after = b"\1" + bytes(7) + b"\3" + bytes(7)
    found = compare("/proc/kpagecount", before, before, after)
    assert (found.stable, found.equal, found.moved, found.perfect) == (1, 1, 1, True)
    assert not compare("/proc/kpagecount", bytes(16), before, after).perfect


def test_page_owner_records_are_told_apart_by_pfn_in_either_base() -> None:
    text = b"Page allocated via order 0\nPFN 0x10 type\n a\n\nPage allocated via order 0\nPFN 17 type\n b\n\n"
    assert set(page_owner_records(text)) == {16, 17}


def test_a_slab_may_leave_the_partial_list_and_come_back_between_readings() -> None:
    def record(flags: str) -> bytes:
        return f"Page allocated via order 1\nPFN 0x10 type Unmovable Flags {flags}\n new_slab\n\n".encode()

    file = "/sys/kernel/debug/page_owner"
    on, off = record("0x1240(workingset|head|node=0)"), record("0x1040(head|node=0)")
    found = compare(file, on, off, off)
    assert (found.stable, found.moved, found.differences) == (0, 1, [])
    assert compare(file, record("0x1044(head|node=0)"), off, off).differences
    assert compare(file, record("0x1240(workingset|head|node=1)"), off, off).differences
