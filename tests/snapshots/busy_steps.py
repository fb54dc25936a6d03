"""What a machine does at random: its processes (rmap_steps.py), and its kernel."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

from mmdump_snapshots.kernels import Profile
from mmdump_snapshots.model.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWAIT, Gfp
from mmdump_snapshots.model.machine import Boot, Machine

from . import rmap_steps
from .machines import CHAINS
from .rmap_steps import Life

__all__ = ["BOOTS", "WHAT", "Busy", "booted"]

#: What can be done; what would leave little to be found is rare.
WHAT = (
    *rmap_steps.WHAT,
    *("alloc", "alloc", "free", "split_page", "exact", "slab", "advance", "drain_pcp", "longterm"),
    *("fault", "huge", "pin", "mlock", "fill", "relieve", "double", "populate", "populate", "pin", "cma"),
)

#: Command lines by name. The first is what hypothesis shrinks to.
BOOTS: dict[str, dict[str, object]] = {
    "all on": {},
    "guards": {"debug_pagealloc": True, "guard_order": 2},
    "reporting": {"page_reporting": True},
    "no pinner": {"page_pinner": False},
    "no owner": {"page_owner": False},
    "full depot": {"stack_depot_max_pools": 1},
    "movable zone": {"movablecore": 24 << 20},
    "page_ext off": {"page_owner": False, "page_pinner": False},
}


def booted(profile: Profile, boot: str, *, nodes: int = 1, seed: int = 0) -> Machine:
    """A small machine with a CMA area of one pageblock or more."""
    options = dict(BOOTS[boot])
    large = profile.page_shift == 14
    if profile.version < (5, 7):
        # There is no free page reporting.
        options.pop("page_reporting", None)
    if "movablecore" in options and large:
        options["movablecore"] = 96 << 20
    return Machine(
        profile.era,
        arch=profile.arch,
        memory=((512 if large else 80) << 20) * nodes,
        nodes=nodes,
        seed=seed,
        boot=Boot(cma=(("reserved", (32 if large else 8) << 20),), **options),
    )


class Busy(Life):
    """A machine whose processes live as they do, and whose kernel takes pages and gives them back."""

    GFPS: ClassVar = (
        *(GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_ATOMIC, GFP_KERNEL | Gfp.RECLAIMABLE, GFP_NOWAIT),
        *(Gfp.KERNEL_ACCOUNT | Gfp.ZERO, Gfp.NOIO | Gfp.NOWARN, Gfp.DMA32 | GFP_KERNEL),
    )

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.blocks: list[tuple[int, int]] = []
        self.exact: list[tuple[int, int]] = []
        call = "do_syscall_64" if machine.arch == "x86_64" else "el0_svc"
        self.chains = [(*chain[:-1], call) for chain in CHAINS]
        self.workers = [machine.task(f"worker/{number}", 100 + number, 100) for number in range(3)]

    def do(self, what: str, a: int, b: int) -> None:
        """One thing, by a task of its own call chain, on one of the CPUs."""
        machine = self.machine
        running = machine.running(self.workers[a % 3], *self.chains[b % 3], cpu=(a >> 4) % machine.cpus)
        # Without memory for a small object it is left half done, as the kernel leaves it.
        with running, suppress(MemoryError):
            super().do(what, a, b)

    def _alloc(self, a: int, b: int) -> None:
        order = (0, 0, 0, 1, 2, 3, 4, self.machine.era.pageblock_order)[a % 8]
        gfp = self.GFPS[b % len(self.GFPS)] | (Gfp.COMP if order and b & 64 else Gfp(0))
        if (pfn := self.machine.alloc_pages(order, gfp)) is not None:
            self.blocks.append((pfn, order))

    def _fill(self, *_: int) -> None:
        """The kernel takes all whole pageblocks, so that processes must do with the rest, and CMA's."""
        order = self.machine.era.pageblock_order
        while (pfn := self.machine.alloc_pages(order, GFP_KERNEL)) is not None:
            self.blocks.append((pfn, order))

    def _relieve(self, *_: int) -> None:
        """And lets go of them; two seconds later they are reported, where somebody wants to know."""
        order = self.machine.era.pageblock_order
        for block in [each for each in self.blocks if each[1] == order]:
            self.blocks.remove(block)
            self.machine.free_pages(*block)
        self.machine.clock.advance(2.1)

    def _double(self, a: int, b: int) -> None:
        """A huge page that parent and child share, mapped whole by one and page by page by the other."""
        mm, order = self.mms[a % len(self.mms)], self.machine.era.pmd_order
        mm.fault(mm.vmas[0], 0, order=order)
        self._fork(a, b)
        if 0 in self.mms[-1].vmas[0].pmds:
            self.mms[-1].split_pmd(self.mms[-1].vmas[0], 0)

    def _populate(self, a: int, b: int) -> None:
        """A process faults in much, and pins a page of it."""
        mm, vma, slot = self._at(a, b)
        mm.populate(vma, slot, min(slot + 1 + a % 400, vma.count))
        self._pin(a, b)

    def _free(self, a: int, b: int) -> None:
        for _ in range(1 + b % 4):
            if self.blocks:
                self.machine.free_pages(*self.blocks.pop(a % len(self.blocks)))

    def _split_page(self, a: int, *_: int) -> None:
        """Of a block that is no compound page."""
        plain = [each for each in self.blocks if each[1] and each[0] not in self.machine.rmap.folios]
        if plain:
            pfn, order = plain[a % len(plain)]
            self.blocks.remove((pfn, order))
            self.machine.split_page(pfn, order)
            self.blocks += [(pfn + page, 0) for page in range(1 << order)]

    def _exact(self, a: int, b: int) -> None:
        if a & 1 and self.exact:
            self.machine.free_pages_exact(*self.exact.pop(b % len(self.exact)))
        else:
            size = (1 + b % 13) * self.machine.era.page_size
            if (pfn := self.machine.alloc_pages_exact(size)) is not None:
                self.exact.append((pfn, size))

    def _slab(self, a: int, *_: int) -> None:
        self.machine.objects.alloc(("dentry", "inode_cache", "skbuff")[a % 3], (192, 608, 1024)[a % 3])

    def _longterm(self, a: int, b: int) -> None:
        _, vma, slot = self._at(a, b)
        self.pins += self.machine.gup.pin_longterm(vma, slot, 1 + a % 4)

    def _advance(self, a: int, *_: int) -> None:
        self.machine.clock.advance((0.001, 0.3, 2.1)[a % 3])

    def _drain_pcp(self, *_: int) -> None:
        self.machine.drain_all_pages()
