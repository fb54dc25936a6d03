"""How a call chain ends: at a system call, a thread, an interrupt; page faults have ends of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["kthread", "named", "syscall"]


def syscall(machine: Machine, name: str) -> tuple[str, ...]:
    """The frames of a system call, innermost first: from its own function to the entry code."""
    if machine.arch == "aarch64":
        return (f"__arm64_sys_{name}", "el0_svc_common", "do_el0_svc", "el0_svc", "el0t_64_sync")
    return (f"__x64_sys_{name}", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")


def named(machine: Machine, since: tuple[int, int], name: str, before: str) -> str:
    """The name of a function that has another since some release."""
    return name if machine.era.version >= since else before


def kthread(*names: str) -> tuple[str, ...]:
    """The frames of a kernel thread that runs these functions."""
    return (*names, "kthread", "ret_from_fork")
