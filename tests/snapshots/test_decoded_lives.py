"""Whatever happens to a machine, under every kernel: all that mmdump decodes of its memory is the truth."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mmdump_snapshots.kernels import profile
from tests.snapshots.busy_steps import BOOTS, WHAT, Busy, booted
from tests.snapshots.decoded import Decoded
from tests.snapshots.decoded_checks import CHECKS
from tests.snapshots.machines import PROFILES

NUMBER = st.integers(0, (1 << 16) - 1)
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), NUMBER, NUMBER), min_size=20, max_size=120)


@pytest.mark.parametrize("name", PROFILES)
@given(boot=st.sampled_from(sorted(BOOTS)), nodes=st.sampled_from((1, 1, 1, 2)), seed=NUMBER, steps=STEPS)
# Shrinking takes minutes; a case that failed is kept, and fails again.
@settings(max_examples=20, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_what_is_decoded_is_the_truth(name, boot, nodes, seed, steps):
    machine = booted(profile(name), boot, nodes=nodes, seed=seed)
    life = Busy(machine)
    for step in steps:
        life.do(*step)
    decoded = Decoded(machine, profile(name), seed)
    for check in CHECKS:
        check(decoded)
