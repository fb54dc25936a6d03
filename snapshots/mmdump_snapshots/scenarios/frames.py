"""How a call chain ends: at a system call, a page fault, a thread, an interrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["kthread", "named", "syscall", "user_fault"]


def syscall(machine: Machine, name: str) -> tuple[str, ...]:
    """The frames of a system call, innermost first: from its own function to the entry code."""
    if machine.arch == "aarch64":
        return (f"__arm64_sys_{name}", "el0_svc_common", "do_el0_svc", "el0_svc", "el0t_64_sync")
    return (f"__x64_sys_{name}", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")


def user_fault(machine: Machine) -> tuple[str, ...]:
    """The frames of a page fault in user space, below ``handle_mm_fault()``."""
    if machine.arch == "aarch64":
        return ("do_page_fault", "do_translation_fault", "do_mem_abort", "el0_da", "el0t_64_sync")
    if machine.era.version < (5, 8):
        return ("__do_page_fault", "do_page_fault", "page_fault")
    return ("do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault")


def named(machine: Machine, since: tuple[int, int], name: str, before: str) -> str:
    """The name of a function that has another since some release."""
    return name if machine.era.version >= since else before


def kthread(*names: str) -> tuple[str, ...]:
    """The frames of a kernel thread that runs these functions."""
    return (*names, "kthread", "ret_from_fork")
