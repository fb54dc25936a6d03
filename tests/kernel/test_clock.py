"""The time of the dump, from the run queues; and what lies between the kernel's log and ``sched_clock()``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from drgn import Architecture, FaultError, Object, Platform, Program, TypeMember

from mmdump.kernel import clock
from mmdump.kernel.clock import now_nsec, sched_clock_offset


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


_PROG = Program(Platform(Architecture.X86_64))
_INT = _PROG.int_type("int", 4, True)
_U64 = _PROG.int_type("u64", 8, False)
_ATOMIC = _PROG.struct_type("atomic_t", 4, (TypeMember(_INT, "counter"),))
_PLAIN_KEY = _PROG.struct_type("static_key", 4, (TypeMember(_ATOMIC, "enabled"),))
_KEY = _PROG.struct_type("static_key_false", 4, (TypeMember(_PLAIN_KEY, "key"),))
ON, OFF = (Object(_PROG, _KEY, {"key": {"enabled": {"counter": count}}}) for count in (1, 0))
PLAIN_ON = Object(_PROG, _PLAIN_KEY, {"enabled": {"counter": 1}})


def u64(value: int) -> Object:
    return Object(_PROG, _U64, value % (1 << 64))


@pytest.mark.parametrize(
    ("variables", "offset"),
    [
        # An architecture whose sched_clock() is stable, such as arm64.
        ({}, 0),
        ({"sched_clock_running": ON}, 0),
        ({"__sched_clock_stable": ON, "__sched_clock_offset": u64(-355248576)}, -355248576),
        ({"__sched_clock_stable": ON, "__sched_clock_offset": u64(12)}, 12),
        # Up to 4.10.
        ({"__sched_clock_stable": PLAIN_ON, "sched_clock_running": Object(_PROG, _INT, 1)}, 0),
        # Marked unstable, or not yet stable: filtered by the ticks.
        ({"__sched_clock_stable": OFF, "__sched_clock_offset": u64(12), "sched_clock_running": ON}, None),
        ({"__sched_clock_stable": OFF, "__sched_clock_offset": u64(12)}, None),
        ({"__sched_clock_stable": OFF, "sched_clock_running": Object(_PROG, _INT, 1)}, None),
        # Before sched_clock_init().
        ({"__sched_clock_stable": OFF, "__sched_clock_offset": u64(0), "sched_clock_running": OFF}, 0),
        # Garbage.
        ({"__sched_clock_stable": ON, "__sched_clock_offset": u64(1 << 63)}, None),
        ({"__sched_clock_stable": Object(_PROG, _KEY, address=8)}, None),
    ],
)
def test_the_log_is_as_far_from_sched_clock_as_the_kernel_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, Object], offset: int | None
) -> None:
    monkeypatch.setattr(clock, "find_object", lambda prog, name: prog.get(name))
    assert sched_clock_offset(variables) == offset  # type: ignore[arg-type]
