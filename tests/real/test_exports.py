"""Call chains of the real vmcore in the formats of flame graphs and profiles: the totals are the table's."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.conftest import Run, Sample
from tests.render.test_stacks import Profile

Mmdump = Callable[..., Run]


@pytest.mark.parametrize(
    ("command", "weights"),
    [
        (("page-owner",), {"pages": "pages", "bytes": "space"}),
        (("pinned",), {"folios": "folios", "bytes": "space"}),
    ],
)
def test_totals_are_those_of_the_table(
    mmdump: Mmdump, sample: Sample, command: tuple[str, ...], weights: dict[str, str], tmp_path: object
) -> None:
    def run(*arguments: str) -> str:
        done = mmdump(*command, sample.kdump, *arguments)
        assert (done.status, done.err) == (0, "")
        return done.out

    rows = json.loads(run("--table", "groups", "-f", "json"))["tables"]["groups"]["rows"]
    totals = {name: sum(row[name] for row in rows) for name in weights}
    assert all(totals.values())
    for name, total in totals.items():
        lines = run("-f", "folded", "--weight", name).splitlines()
        assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == total
    speedscope = json.loads(run("-f", "speedscope"))
    assert {each["name"].split()[-1]: each["endValue"] for each in speedscope["profiles"]} == totals
    run("-o", "out.pb.gz")
    profile = Profile((tmp_path / "out.pb.gz").read_bytes())
    sums = [sum(values[index] for _, values, _ in profile.samples) for index in range(len(totals))]
    assert dict(zip((name for name, _ in profile.types), sums, strict=True)) == {
        weights[name]: total for name, total in totals.items()
    }
    # Every frame of every chain has its return address.
    assert all(address >> 63 for chain, _, _ in profile.samples for _, address, _, _ in chain)


def test_a_result_without_call_chains_is_a_usage_error(mmdump: Mmdump, sample: Sample) -> None:
    run = mmdump("info", sample.kdump, "-f", "folded")
    assert run.status == 2
    assert run.err.startswith("mmdump: info has no call chains to write.\n")
