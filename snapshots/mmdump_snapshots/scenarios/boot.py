"""Machines that have done little: just booted, with a depot too small, or idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.gfp import Gfp
from ..model.mm import Mm
from .frames import kthread, named, syscall

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["depot_exhausted", "early_boot", "idle"]


def early_boot(machine: Machine) -> None:
    """The first process starts."""
    init = machine.task("systemd", pid=1)
    with machine.running(
        init,
        "load_elf_binary",
        named(machine, (5, 9), "bprm_execve", "__do_execve_file"),
        *syscall(machine, "execve"),
    ):
        mm = Mm(machine, init)
        mm.populate(mm.mmap(64), 0, 64)


def depot_exhausted(machine: Machine) -> None:
    """So many different call chains that the depot has no room for the last ones."""
    task = machine.task("syzkaller", pid=4242)
    clone = named(machine, (5, 10), "kernel_clone", "_do_fork")
    names = ("vfs_read", "vfs_write", "ksys_read", "ksys_write", "do_sys_open", "path_openat",
             "link_path_walk", clone, "do_exit", "handle_mm_fault")  # fmt: skip
    for number in range(3000):
        digits = [int(digit) for digit in f"{number:04d}"]
        chain = tuple(f"{names[digit]}+{0x10 + 8 * place:#x}" for place, digit in enumerate(digits))
        with machine.running(task, *chain, *syscall(machine, "ioctl")):
            machine.alloc_pages(0, Gfp.KERNEL)
        machine.clock.advance(0.001)


def idle(machine: Machine) -> None:
    """A few processes, a driver that holds some pages of one of them, and nothing else."""
    kworker = machine.task("kworker/0:1", pid=9)
    with machine.running(kworker, "process_one_work", *kthread("worker_thread")):
        for order in (0, 1, 2, 3):
            machine.alloc_pages(order, Gfp.KERNEL | (Gfp.COMP if order else Gfp(0)))
    for pid, comm in ((1, "systemd"), (310, "sshd"), (355, "qemu-system-x86")):
        task = machine.task(comm, pid=pid)
        mm = Mm(machine, task)
        with machine.running(task):
            mm.populate(mm.mmap(32), 0, 32)
            mm.fault(mm.mmap(1 << machine.era.pmd_order), 0, order=machine.era.pmd_order)
        if comm.startswith("qemu"):
            with machine.running(task, "vfio_pin_pages_remote", "vfio_iommu_type1_ioctl",
                                 *syscall(machine, "ioctl")):  # fmt: skip
                for vma in mm.vmas:
                    machine.gup.pin(vma.mapped(0))
        machine.clock.advance(10.0)
