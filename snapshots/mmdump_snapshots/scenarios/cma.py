"""A contiguous allocation that fails, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.cma import cma_alloc
from ..model.direct_io import DirectIo, Disk
from ..model.mm import Mm
from ..model.pagecache import PageCache
from ..model.pipe import Driver, Pipe
from .frames import named, syscall

if TYPE_CHECKING:
    from ..model import Machine
    from ..model.cma import CmaArea
    from ..model.vma import Vma

__all__ = ["cma_failure", "cma_shared", "fill", "pages_in"]


def fill(machine: Machine) -> Mm:
    """Let a large process take all memory in huge pages, until only the CMA areas have one left."""
    task = machine.task("java", pid=901)
    size = 1 << machine.era.pmd_order
    mm = Mm(machine, task)
    while True:
        with machine.running(task):
            vma = mm.mmap(size)
            pfn = mm.fault(vma, 0, order=machine.era.pmd_order)
        if pfn is None or any(area.base_pfn <= pfn < area.end_pfn for area in machine.cma):
            with machine.running(task, *syscall(machine, "munmap")):
                mm.munmap(vma)
            return mm


def pages_in(
    machine: Machine,
    area: CmaArea,
    mm: Mm,
    wanted: int,
    limit: int = 16384,
    file: PageCache | None = None,
) -> tuple[Vma, list[int]]:
    """Let a process fault in pages until so many of them lie in a CMA area.

    :param file: What they are of; anonymous ones without.

    :return: The mapping, and the slots of those pages.
    """
    found: list[int] = []
    with machine.running(mm.task):
        vma = mm.mmap(limit, file=file)
        for slot in range(limit):
            pfn = mm.fault(vma, slot)
            if pfn is not None and area.base_pfn <= pfn < area.end_pfn:
                found.append(slot)
            if len(found) == wanted:
                break
    return vma, found


def _ask(machine: Machine) -> tuple[str, ...]:
    """The frames of who asks for contiguous memory, innermost first."""
    if machine.era.version >= (5, 6):
        return ("cma_heap_allocate", "dma_heap_ioctl", *syscall(machine, "ioctl"))
    # Before there were dma-buf heaps, frames came by way of the capture driver.
    driver_calls = ("vb2_dc_alloc", "__vb2_queue_alloc", "vb2_core_reqbufs", "v4l_reqbufs", "video_ioctl2")
    return ("dma_alloc_from_contiguous", *driver_calls, *syscall(machine, "ioctl"))


def cma_failure(machine: Machine) -> None:
    """One process writes to disk from pages of the area; another has left pages in a pipe. Both hold on.

    The disk does not answer: the write is direct I/O by ``io_submit()``, and does not come to its end.

    A third has let go since: its pages were in the way, and are marked, but would move now.
    """
    area = machine.cma[0]
    fill(machine)
    machine.clock.advance(30.0)

    prober, database, archiver = (
        machine.task("ethtool", pid=1190),
        machine.task("postgres", pid=1204),
        machine.task("tar", pid=1377),
    )
    camera = machine.task("camera-hal", pid=1742)
    probe, pipe = Driver(machine), Pipe(machine, archiver)
    ask = _ask(machine)

    with machine.running(prober, "pin_user_pages_fast", "dev_ethtool", *syscall(machine, "ioctl")):
        vma, slots = pages_in(machine, area, Mm(machine, prober), 300)
        probe.pin_user_pages(vma.mapped(slot) for slot in slots[::150])
    with machine.running(camera, *ask):
        cma_alloc(machine, area, area.count)
    machine.clock.advance(7.0)
    submit = named(machine, (5, 16), "__blkdev_direct_IO_async", "__blkdev_direct_IO")
    path = ("bio_iov_iter_get_pages", submit, "blkdev_write_iter", "aio_write", "io_submit_one")
    with machine.running(database, *path, *syscall(machine, "io_submit")):
        vma, slots = pages_in(machine, area, Mm(machine, database), 600)
        DirectIo(machine, database, Disk(), [vma.mapped(slot) for slot in slots[::50]], sector=1 << 21)
    machine.clock.advance(7.0)
    taken = named(machine, (6, 0), "iov_iter_get_pages2", "iov_iter_get_pages")
    with machine.running(archiver, taken, "vmsplice_to_pipe", *syscall(machine, "vmsplice")):
        vma, slots = pages_in(machine, area, Mm(machine, archiver), 600)
        for slot in slots[::150]:
            pipe.vmsplice(vma, slot)
    machine.clock.advance(2.0)
    with machine.running(camera, *ask):
        # A place is tried at each multiple of 2 MiB (with pages of 4 KiB).
        cma_alloc(machine, area, area.count * 3 // 4, align=9)
    machine.clock.advance(0.5)
    with machine.running(prober, "dev_ethtool", *syscall(machine, "ioctl")):
        probe.release()


def cma_shared(machine: Machine) -> None:
    """A codec and a pipe hold pages of shared memory in the area, which can be isolated but not moved.

    They were got by ``get_user_pages()`` and ``vmsplice()``. One by one they are let go of, in ways that
    leave different traces: before the first attempt, between two, and after it; one moves away then.
    """
    area = machine.cma[0]
    fill(machine)
    media, mixer = machine.task("media.codec", pid=612), machine.task("audioserver", pid=655)
    camera = machine.task("camera-provid", pid=701)
    frames = PageCache(machine, "frames", shmem=True)
    driver, pipe = Driver(machine), Pipe(machine)
    got = ("get_user_pages_fast", "vb2_dc_get_userptr", *syscall(machine, "ioctl"))
    spliced = (named(machine, (6, 0), "iov_iter_get_pages2", "iov_iter_get_pages"), "vmsplice_to_pipe")
    given_back = syscall(machine, "ioctl")

    mm = Mm(machine, media)
    vma, slots = pages_in(machine, area, mm, 90, file=frames)
    with machine.running(media, *got):
        driver.get_user_pages(vma.mapped(slot) for slot in slots[::15])
        # A huge page of its own as well, and that not for long.
        huge = mm.mmap(1 << machine.era.pmd_order)
        mm.fault(huge, 0, order=machine.era.pmd_order)
        head = huge.mapped(0)
        if head:
            machine.gup.get(head)
            machine.gup.put(head)
        mm.munmap(huge)
    with machine.running(mixer, *spliced, *syscall(machine, "vmsplice")):
        for slot in slots[5:11:2]:
            pipe.vmsplice(vma, slot)
    machine.clock.advance(2.0)
    with machine.running(media, *given_back):
        driver.put_user_pages()
    with machine.running(camera, *_ask(machine)):
        cma_alloc(machine, area, area.count)
    machine.clock.advance(1.5)
    with machine.running(mixer, *syscall(machine, "read")):
        pipe.read()
    with machine.running(media, *given_back):
        driver.put_user_pages(2)
    machine.clock.advance(0.25)
    with machine.running(camera, *_ask(machine)):
        cma_alloc(machine, area, area.count)
    machine.clock.advance(0.125)
    with machine.running(mixer, *syscall(machine, "read")):
        pipe.read()
