"""Every scenario under every kernel: all that mmdump decodes of it is the truth."""

from __future__ import annotations

import pytest

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.scenarios import SCENARIOS
from tests.snapshots.decoded import Decoded
from tests.snapshots.decoded_checks import CHECKS
from tests.snapshots.machines import PROFILES

#: Of cma-failure, the pages that each page pinner has marked and nobody holds. The RFC marks the one page
#: that the allocation failed for. Android's marks those that could not be isolated, before 13 only those
#: that could be, but not moved.
RELEASED = {Pinner.RFC: 1, Pinner.A2: 0, Pinner.B1: 2, Pinner.B2: 2}

CASES = [
    (name, scenario)
    for name in PROFILES
    for scenario in SCENARIOS
    # What is spoilt is no truth.
    if scenario.spoil is None and profile(name).version >= scenario.since
]


@pytest.mark.parametrize(
    ("name", "scenario"), CASES, ids=[f"{name}-{scenario.name}" for name, scenario in CASES]
)
def test_what_is_decoded_is_the_truth(name, scenario):
    decoded = Decoded(scenario.play(profile(name), seed=1), profile(name), seed=1)
    for check in CHECKS:
        check(decoded)
    if scenario.name == "cma-failure":
        # So much that it cannot be the truth of nothing.
        states = [page.state for page in decoded.truth.pinned]
        assert (states.count("held"), states.count("released")) == (16, RELEASED[profile(name).pinner])
