"""The scenarios in the box."""

from __future__ import annotations

from ..scenario import Scenario
from .balloon import balloon
from .boot import depot_exhausted, early_boot, idle
from .cma import cma_failure, cma_shared
from .corrupted import corrupt, corrupted
from .fragmentation import fragmentation
from .leak import leak
from .thp import thp

__all__ = ["SCENARIOS"]

_CMA = {"cma": (("reserved", 16 << 20),)}

SCENARIOS = (
    Scenario("balloon", "a guest whose free memory was reported to the hypervisor, and some that was not",
             balloon, boot={"page_reporting": True}, since=(5, 7), command="reported"),
    Scenario("cma-failure", "a camera asked for contiguous memory and got none: pages of the area are held",
             cma_failure, boot=_CMA, command="pinned"),
    Scenario("cma-shared", "the same with shared memory: a codec and a pipe hold some, and let go of some",
             cma_shared, boot=_CMA, command="pinned"),
    Scenario("corrupted", "what cma-failure shows, with metadata overwritten since",
             corrupted, boot=_CMA, spoil=corrupt, command="check"),
    Scenario("depot-exhausted", "the stack depot is full: later allocations have no call chain",
             depot_exhausted, boot={"stack_depot_max_pools": 2}, command="stackdepot"),
    Scenario("early-boot", "a machine that has just booted: what was allocated before page_owner was ready",
             early_boot, boot={"early_pages": 512}, command="page-owner"),
    Scenario("fragmentation", "memory is free, but no large block of it: unmovable pages lie everywhere",
             fragmentation, memory=96 << 20, command="buddy"),
    Scenario("idle", "a large machine that does nothing", idle, memory=1 << 30),
    Scenario("leak", "a driver that forgets the pages it receives packets in", leak,
             boot={"mem_profiling": True}, command="page-owner"),
    Scenario("thp", "huge pages: half unmapped, mapped both ways, pinned, or in order", thp, command="thp"),
)  # fmt: skip
