"""Sizes in their unit, things in their number."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump.amounts import agreeing, bytes_text, counted


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (4096, "4 KiB"), (5120, "5 KiB"), (1 << 20, "1 MiB"), (np.int64(3 << 29), "1.5 GiB")),
        *((-4096, "-4 KiB"), ((1 << 20) - 1, "1.0 MiB"), (198492160, "189.3 MiB")),
    ],
)
def test_a_size_is_in_the_largest_unit_that_it_fills(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_one_is_one_and_more_are_more() -> None:
    assert [counted(n, "page") for n in (0, 1, 2)] == ["0 pages", "1 page", "2 pages"]
    assert [agreeing(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]
    assert counted(2, "CMA area of many", "CMA areas of many") == "2 CMA areas of many"
