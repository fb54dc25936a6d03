"""Machines on which something has happened, for tests of what is written of them."""

from __future__ import annotations

from functools import cache
from random import Random

from mmdump_snapshots.kernels import Profile, profiles
from mmdump_snapshots.model.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.writer.image import Image, build

#: Every kernel that a snapshot can be of.
PROFILES = tuple(profiles())

#: Call chains of the tasks below, innermost first.
CHAINS = (
    ("pipe_write", "vfs_write", "ksys_write", "do_syscall_64"),
    ("vfs_write", "ksys_write", "do_syscall_64"),
    ("ksys_write", "do_syscall_64"),
)


def busy_machine(profile: Profile, seed: int = 0, **options: object) -> Machine:
    """Some tasks allocate blocks and compound pages of several orders, and free most of them."""
    boot = Boot(**{"cma": (("reserved", 32 << 20),), **options.pop("boot", {})})
    machine = Machine(profile.era, arch=profile.arch, seed=seed, boot=boot, **options)
    random = Random(seed)
    held: list[tuple[int, int]] = []
    tasks = [machine.task(f"worker/{number}", 100 + number) for number in range(3)]
    system_call = "do_syscall_64" if profile.arch == "x86_64" else "el0_svc"
    chains = [(*chain[:-1], system_call) for chain in CHAINS]
    for step in range(300):
        task = tasks[step % 3]
        with machine.running(task, *chains[step % 3], cpu=step % machine.cpus):
            machine.clock.advance(0.001)
            if held and random.random() < 0.4:
                pfn, order = held.pop(random.randrange(len(held)))
                machine.free_pages(pfn, order)
            else:
                order = random.choice((0, 0, 0, 1, 2, 3, 5, 9))
                gfp = random.choice((GFP_KERNEL, GFP_HIGHUSER_MOVABLE))
                if order and random.random() < 0.7:
                    gfp |= Gfp.COMP
                pfn = machine.alloc_pages(order, gfp)
                if pfn is not None:
                    held.append((pfn, order))
    return machine


@cache
def busy(name: str) -> tuple[Machine, Image]:
    """A busy machine under a kernel, and its image; made once."""
    machine = busy_machine(profiles()[name])
    return machine, build(machine, profiles()[name], kaslr=7)
