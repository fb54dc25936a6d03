"""A driver that leaks: kernel pages, from one call chain, evenly over time, never freed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.gfp import Gfp
from ..model.mm import Mm
from .frames import kthread, syscall

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["leak"]


def leak(machine: Machine) -> None:
    """A network card's receive buffers are forgotten now and then, while others come and go."""
    irq = machine.task("irq/44-enp1s0", pid=244)
    worker = machine.task("nginx", pid=812)
    mm = Mm(machine, worker)
    buffers: list[tuple[int, int]] = []
    send = ("alloc_skb_with_frags", "sock_alloc_send_pskb", "unix_stream_sendmsg")
    # Inlined before 5.12.
    poll = ("__napi_poll", "net_rx_action") if machine.era.version >= (5, 12) else ("net_rx_action",)
    for second in range(600):
        machine.clock.advance(1.0)
        with machine.running(irq, "e1000_alloc_rx_buffers", "e1000_clean_rx_irq", "e1000e_poll", *poll,
                             *kthread("irq_thread")):  # fmt: skip
            for _ in range(4):
                pfn = machine.alloc_pages(0, Gfp.ATOMIC)
                if pfn is not None:
                    buffers.append((pfn, 0))
            # Of four buffers one is forgotten.
            while len(buffers) > second + 1:
                machine.free_pages(*buffers.pop(machine.rng.randrange(len(buffers))))
        if second % 20 == 0:
            with machine.running(worker):
                mm.populate(mm.mmap(16), 0, 16)
            with machine.running(worker, *send, *syscall(machine, "sendmsg")):
                machine.objects.alloc("skbuff", 1024)
