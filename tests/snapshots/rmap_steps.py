"""What processes do at random, for tests of what must hold whatever they do."""

from __future__ import annotations

from mmdump_snapshots.model.cma import cma_alloc, cma_release
from mmdump_snapshots.model.folio import FolioKind
from mmdump_snapshots.model.ksm import merge
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.migrate import isolate_migratepages, migrate_pages
from mmdump_snapshots.model.mm import Mm
from mmdump_snapshots.model.pagecache import PageCache
from mmdump_snapshots.model.thp import deferred_split_scan, split_folio
from mmdump_snapshots.model.vma import Vma

from .rmap_machines import new_task, process

NR = 512
#: What can be done.
WHAT = (
    *("fault", "huge", "mthp", "file", "fork", "split_pmd", "zap", "exit", "split", "scan", "drain"),
    *("pin", "unpin", "get", "put", "mlock", "swap", "migrate", "truncate", "merge", "cma"),
)
#: How many processes there are at most.
PROCESSES = 5


class Life:
    """A machine with a CMA area, processes, files and holders of pages; :meth:`do` one thing after another.

    Two numbers choose what it is done to; what cannot be done is left.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.files = [PageCache(machine, "file"), PageCache(machine, "shm", shmem=True)]
        first = process(machine, "first")
        first.mmap(2 << machine.era.pmd_order)
        first.mmap(NR, file=self.files[0], shared=False)
        first.mmap(NR, file=self.files[1])
        self.mms: list[Mm] = [first]
        self.pins: list[int] = []
        self.gets: list[int] = []
        self.contiguous: list[tuple[int, int]] = []

    def do(self, what: str, a: int, b: int) -> None:
        getattr(self, f"_{what}")(a, b)

    def end(self) -> None:
        """Let go of everything."""
        while self.pins:
            self._unpin(0)
        while self.gets:
            self._put(0)
        while self.contiguous:
            self._cma_release()
        for mm in self.mms:
            mm.exit()
        for file in self.files:
            file.truncate()
        self.machine.batches.drain_all()

    def _at(self, a: int, b: int) -> tuple[Mm, Vma, int]:
        mm = self.mms[a % len(self.mms)]
        vma = mm.vmas[b % len(mm.vmas)]
        return mm, vma, b * 37 % vma.count

    def _page(self, a: int, b: int) -> int:
        """A page that is mapped, near where the numbers say; 0 for none."""
        _, vma, slot = self._at(a, b)
        pfn = vma.mapped(slot)
        mapped = vma.ptes[vma.ptes != 0]
        if not pfn and len(mapped):
            pfn = int(mapped[b % len(mapped)])
        return pfn or next(iter(vma.pmds.values()), 0)

    def _fault(self, a: int, b: int) -> None:
        mm, vma, slot = self._at(a, b)
        mm.fault(vma, slot, write=bool(a & 64))

    def _huge(self, a: int, b: int) -> None:
        mm, vma, slot = self._at(a, b)
        mm.fault(vma, slot, order=self.machine.era.pmd_order, write=bool(a & 64))

    def _mthp(self, a: int, b: int) -> None:
        mm, vma, slot = self._at(a, b)
        if vma.file is None and self.machine.era.version >= (6, 8):
            mm.fault(vma, slot, order=2 + a % 4)

    def _file(self, a: int, b: int) -> None:
        file = self.files[a % 2]
        order = 0 if self.machine.era.version < (5, 16) else b % 5
        head = file.read(b % NR, order)
        if head is not None and b & 32 and not self.machine.pages.private[head] and not file.shmem:
            file.attach_private(head, 0x1000)

    def _truncate(self, a: int, b: int) -> None:
        file = self.files[a % 2]
        if (head := file.folios.get(b % NR)) is not None:
            file.remove(head)

    def _fork(self, a: int, b: int) -> None:
        if len(self.mms) < PROCESSES:
            self.mms.append(self._at(a, b)[0].fork(new_task(self.machine, "child")))

    def _exit(self, a: int, *_: int) -> None:
        if len(self.mms) > 1:
            self.mms.pop(a % len(self.mms)).exit()

    def _split_pmd(self, a: int, b: int) -> None:
        mm, vma, slot = self._at(a, b)
        if (base := mm.pmd_slot(slot)) in vma.pmds:
            mm.split_pmd(vma, base)

    def _zap(self, a: int, b: int) -> None:
        mm, vma, slot = self._at(a, b)
        mm.zap(vma, slot, min(slot + 1 + a % 300, vma.count))

    def _split(self, a: int, b: int) -> None:
        head = self.machine.pages.head(self._page(a, b))
        if head in self.machine.rmap.folios:
            split_folio(self.machine, head)

    def _scan(self, *_: int) -> None:
        deferred_split_scan(self.machine)

    def _drain(self, *_: int) -> None:
        self.machine.batches.drain_all()

    def _mlock(self, a: int, b: int) -> None:
        mm, vma, _ = self._at(a, b)
        mm.mlock(vma)

    def _swap(self, a: int, b: int) -> None:
        head = self.machine.pages.head(self._page(a, b))
        if head and self.machine.rmap.is_anon(head) and head not in self.machine.swap_cache.folios:
            self.machine.swap_cache.add(head)

    def _migrate(self, a: int, b: int) -> None:
        if pfn := self._page(a, b):
            self.machine.batches.disable()
            left, _ = migrate_pages(self.machine, isolate_migratepages(self.machine, pfn, pfn + 1)[0])
            for head in left:
                self.machine.batches.putback(head)
            self.machine.batches.enable()

    def _merge(self, a: int, b: int) -> None:
        first, second = self._at(a, b), self._at(a // 7, b // 7)
        pfns = [vma.mapped(slot) for _, vma, slot in (first, second)]
        rmap = self.machine.rmap
        if len(set(pfns)) == 2 and all(
            pfn and rmap.folio(pfn) is None and rmap.kind(pfn) is FolioKind.ANON for pfn in pfns
        ):
            merge(self.machine, *first[1:], *second[1:])

    def _cma(self, a: int, b: int) -> None:
        (area,) = self.machine.cma
        if a & 1 and self.contiguous:
            self._cma_release()
        elif (pfn := cma_alloc(self.machine, area, count := 1 + b % area.count, a % 5)) is not None:
            self.contiguous.append((pfn, count))

    def _cma_release(self) -> None:
        cma_release(self.machine, self.machine.cma[0], *self.contiguous.pop())

    def _pin(self, a: int, b: int) -> None:
        if pfn := self._page(a, b):
            self.machine.gup.pin(pfn)
            self.pins.append(pfn)

    def _unpin(self, a: int, *_: int) -> None:
        if self.pins:
            self.machine.gup.unpin(self.pins.pop(a % len(self.pins)))

    def _get(self, a: int, b: int) -> None:
        if pfn := self._page(a, b):
            self.machine.gup.get(pfn)
            self.gets.append(pfn)

    def _put(self, a: int, *_: int) -> None:
        if self.gets:
            self.machine.gup.put(self.gets.pop(a % len(self.gets)))
