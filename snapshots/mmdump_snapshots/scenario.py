"""Scenarios: what happened on a machine before its memory was dumped.

A plugin contributes its own through the hook ``mmdump_scenarios``::

    def driver_leak(machine: Machine) -> None:
        with machine.running(machine.task("nic-irq", pid=80), "my_driver_poll"):
            for _ in range(500):
                machine.alloc_pages(0, GFP_ATOMIC)

    @hookimpl
    def mmdump_scenarios():
        return [Scenario("driver-leak", "a driver that forgets its pages", driver_leak)]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmdump.errors import UsageError

if TYPE_CHECKING:
    from random import Random

    from mmdump_snapshots.kernels import Profile
    from mmdump_snapshots.model import Machine
    from mmdump_snapshots.writer import Image

__all__ = ["DEFAULT_PROFILE", "Scenario"]

#: The kernel that a scenario runs on unless another is asked for.
DEFAULT_PROFILE = "6.12"


@dataclass(frozen=True)
class Scenario:
    """Something that happens to a machine's memory.

    :param name: By which it is asked for.
    :param summary: One line.
    :param story: Makes it happen, on a machine that has just booted.
    :param memory: Memory of the machine in bytes, unless another size is asked for; with larger pages than
        4 KiB as much more.
    :param boot: Boot parameters, by the names of :class:`mmdump_snapshots.model.Boot`.
    :param nodes: NUMA nodes.
    :param since: The first kernel that it can happen to.
    :param spoil: Damages the finished image; None where nothing is damaged.
    :param command: The command of mmdump that shows what happened, with its options, without the dump.
    """

    name: str
    summary: str
    story: Callable[[Machine], None]
    memory: int = 256 << 20
    boot: Mapping[str, object] = field(default_factory=dict)
    nodes: int = 1
    since: tuple[int, int] = (0, 0)
    spoil: Callable[[Image, Random], None] | None = None
    command: str = "info"

    def play(self, profile: Profile, *, memory: int | None = None, seed: int = 0) -> Machine:
        """Boot a machine with this kernel, and let it happen.

        :param memory: In bytes, in place of the scenario's own.
        :param seed: Of everything random.
        :raises UsageError: It cannot happen to this kernel.
        """
        from mmdump_snapshots.model import Boot, Machine

        if profile.version < self.since:
            least = ".".join(map(str, self.since))
            raise UsageError(
                f"{self.name} cannot happen to Linux {profile.name}", f"It takes {least} or newer."
            )
        machine = Machine(
            profile.era,
            arch=profile.arch,
            memory=memory or self.memory << (profile.page_shift - 12),
            nodes=self.nodes,
            seed=seed,
            boot=Boot(**self.boot),  # type: ignore[arg-type]
        )
        self.story(machine)
        return machine

    def image(self, profile: Profile, *, memory: int | None = None, seed: int = 0) -> Image:
        """The memory of that machine, as its kernel would have it."""
        from random import Random

        from mmdump_snapshots.writer.image import build

        made = build(self.play(profile, memory=memory, seed=seed), profile, kaslr=seed)
        if self.spoil is not None:
            self.spoil(made, Random(seed))  # noqa: S311 - the same damage for the same seed
        return made
