"""The time of the dump, from the run queues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from drgn import FaultError

from mmdump.kernel import clock
from mmdump.kernel.clock import now_nsec


def kernel(monkeypatch: pytest.MonkeyPatch, *clocks: Any) -> Any:
    def each_cpu(prog: object, variable: object):
        for each in clocks:
            if isinstance(each, Exception):
                raise each
            yield SimpleNamespace(clock=SimpleNamespace(value_=lambda value=each: value))

    monkeypatch.setattr(clock, "each_cpu", each_cpu)
    monkeypatch.setattr(clock, "find_object", lambda _, name: name)
    return SimpleNamespace(target=SimpleNamespace(prog=None))


@pytest.mark.parametrize(
    ("clocks", "now"),
    [
        ((5, 9, 7), 9),
        ((0, 0), None),
        ((), None),
        ((5, (1 << 64) - 1), 5),
        ((5, FaultError("not in the dump", 0), 9), 5),
        ((LookupError(),), None),
    ],
)
def test_it_is_the_latest_that_can_be_believed(monkeypatch: pytest.MonkeyPatch, clocks, now) -> None:
    assert now_nsec(kernel(monkeypatch, *clocks)) == now


def test_without_run_queues_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    of = kernel(monkeypatch, 5)
    monkeypatch.setattr(clock, "find_object", lambda *_: None)
    assert now_nsec(of) is None
