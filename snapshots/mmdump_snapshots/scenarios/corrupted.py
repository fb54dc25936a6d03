"""Metadata that something has overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cma import cma_failure

if TYPE_CHECKING:
    from random import Random

    from ..model import Machine
    from ..writer import Image

__all__ = ["corrupt", "corrupted"]

#: What is overwritten. What leads to it stays, so that the rest can be read.
_OVERWRITTEN = ("page array", "page_ext", "stack depot", "nodes and zones")


def corrupted(machine: Machine) -> None:
    """What happened before is the failure of a contiguous allocation."""
    cma_failure(machine)


def corrupt(image: Image, rng: Random) -> None:
    """Overwrite some of the page array, of page_ext, of the depot and of the zones."""
    from ..writer.damage import Damage
    from ..writer.targets import targets

    found = targets(image)
    for name in _OVERWRITTEN:
        if name in found:
            Damage(rng.randrange(1 << 32)).memory(
                image.memory, {name: found[name]}, address=image.addresses.direct, changes=2
            )
