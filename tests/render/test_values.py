"""How one value reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.amounts import bytes_text, nsec_text
from mmdump.render.values import value_text
from mmdump.result import Kind


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (None, Kind.COUNT, "-"),
        (1234567, Kind.COUNT, "1,234,567"),
        (1234567, Kind.ID, "1234567"),
        (0x1BE11, Kind.PFN, "0x1be11"),
        (0xFFFF888000000000, Kind.ADDRESS, "0xffff888000000000"),
        (0xCC0, Kind.BITS, "0xcc0"),
        (True, Kind.BOOL, "yes"),
        (False, Kind.BOOL, "no"),
        (7522679123, Kind.NSEC, "7.522679 s"),
        (["page_pinner", "excess"], Kind.TEXT, "page_pinner, excess"),
        ([1, None], Kind.PFN, "0x1, -"),
        ([], Kind.TEXT, "-"),
        ("a\nb", Kind.TEXT, r"a\nb"),
        (["a\x1bb"], Kind.TEXT, r"a\x1bb"),
        (0.25, Kind.COUNT, "0.2"),
    ],
)
def test_each_kind_reads_as_people_write_it(value: object, kind: Kind, shown: str) -> None:
    assert value_text(value, kind) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1000, "1000 B"),
        (4096, "4 KiB"),
        (64 << 20, "64 MiB"),
        (3 << 29, "1.5 GiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        ((1 << 64) - 1, "16.0 EiB"),
        (-4096, "-4 KiB"),
    ],
)
def test_a_size_is_in_the_largest_unit_that_it_fills(size: int, shown: str) -> None:
    assert bytes_text(size) == shown


@given(st.integers(0, 2**64 - 1))
def test_a_size_is_never_off_by_more_than_its_last_decimal(size: int) -> None:
    number, unit = bytes_text(size).split()
    scale = 1 << 10 * ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert abs(float(number) * scale - size) <= 0.0501 * scale


def test_time_is_rounded_to_microseconds_as_the_kernels_trace_is() -> None:
    assert nsec_text(999_999_999) == "1.000000 s"
    assert nsec_text(47_291_146_500) == "47.291147 s"
    assert nsec_text(12_000_001_499) == "12.000001 s"
