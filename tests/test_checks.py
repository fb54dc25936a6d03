"""What a check says of a page."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump.checks import Violations


@pytest.mark.parametrize(("row", "text"), [(0, "has 1 reference, at 0x10"), (1, "has 2 references, at 0x11")])
def test_numbers_agree_with_what_they_count(row: int, text: str) -> None:
    values = {"refcount": np.array([1, 2]), "pfn": np.array([0x10, 0x11])}
    assert Violations("has {refcount:reference}, at {pfn:#x}", np.array([0, 1]), values).text(row) == text
