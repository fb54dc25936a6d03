"""Names of what runs: tasks, modules and the machine itself (kernel: struct task_struct, struct module)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.layout import c_string

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["host_names", "module_names", "task_names"]

#: PID_MAX_LIMIT: more tasks than this there cannot be.
_MAX_TASKS = 1 << 22
#: A machine has some hundreds; the list of a damaged dump may have no end.
_MAX_MODULES = 1 << 13
#: __NEW_UTS_LEN with its end.
_UTS_LEN = 65
_ERRORS = (FaultError, LookupError, AttributeError, TypeError, ValueError, OverflowError)


def task_names(prog: Program) -> list[str]:
    """``task_struct::comm`` of all tasks, each name once. Does not raise: what cannot be read is left out."""

    def names() -> Iterator[str]:
        from drgn.helpers.linux.pid import for_each_task

        for task in islice(for_each_task(prog), _MAX_TASKS):
            yield c_string(task.comm)

    return _all(names)


def module_names(prog: Program) -> list[str]:
    """The names of all loaded modules. Does not raise: what cannot be read is left out."""

    def names() -> Iterator[str]:
        from drgn.helpers.linux.module import for_each_module

        for module in islice(for_each_module(prog), _MAX_MODULES):
            yield c_string(module.name)

    return _all(names)


def host_names(prog: Program) -> list[str]:
    """Node name and domain name (``init_uts_ns``), where they are set. Does not raise."""

    def names() -> Iterator[str]:
        for member in ("nodename", "domainname"):
            yield c_string(prog["init_uts_ns"].name.member_(member), _UTS_LEN)

    return [name for name in _all(names) if name != "(none)"]


def _all(names: Callable[[], Iterator[str]]) -> list[str]:
    found: dict[str, None] = {}
    try:
        for name in names():
            found[name] = None
    except _ERRORS:
        pass
    return [name for name in found if name.strip()]
