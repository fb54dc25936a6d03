"""gfp masks of the model in the numbers of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.kernels.gfp import bits, masks
from mmdump_snapshots.model.gfp import Gfp

if TYPE_CHECKING:
    from mmdump_snapshots.kernels import Profile

__all__ = ["translated"]


def translated(profile: Profile, values: NDArray[Any]) -> NDArray[np.uint32]:
    """Translate gfp masks bit by bit, by name.

    GFP_ATOMIC has a bit of its own up to 6.3: whoever may dip into reserves and not sleep has it.
    """
    known = bits(profile.version)
    found = np.zeros(len(values), np.uint32)
    wide = values.astype(np.uint32)
    # Of all the bits there are, few are in use at once; in memory that nobody touched, none.
    used = int(np.bitwise_or.reduce(wide, initial=0))
    for flag in Gfp:
        if flag.value & (flag.value - 1) == 0 and flag.value & used:
            set_here = (wide & np.uint32(flag.value)) != 0
            found |= np.where(set_here, np.uint32(known.get(f"__GFP_{flag.name}", 0)), np.uint32(0))
    if "__GFP_ATOMIC" in known:
        atomic = (wide & np.uint32(Gfp.HIGH | Gfp.DIRECT_RECLAIM)) == np.uint32(Gfp.HIGH)
        found |= np.where(atomic, np.uint32(masks(profile.version)["GFP_ATOMIC"]), np.uint32(0))
    return found
