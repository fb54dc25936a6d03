"""Folded stacks: the input of flamegraph.pl and of all that speaks its language."""

from __future__ import annotations

import re

from mmdump.render.stacks import Chains, Frame, StackRenderer
from mmdump.result import Result

__all__ = ["FoldedRenderer"]

#: What separates frames, and a chain from its count. What is not printable was escaped before.
_SEPARATORS = re.compile(r"[;\s]+")


class FoldedRenderer(StackRenderer):
    """One line per call chain: its functions from the outermost, joined by ``;``, and what it weighs.

    Lines are in order of weight, largest first. What weighs nothing is left out.
    """

    def write(self, result: Result, chains: Chains) -> None:  # noqa: ARG002
        """Write the lines."""
        # What differs only in blanks is one chain here.
        sums: dict[str, int] = {}
        for chain, weight in chains.folded(chains.chosen).items():
            line = ";".join(_name(frame) for frame in reversed(chain))
            sums[line] = sums.get(line, 0) + weight
        for line, weight in sorted(sums.items(), key=lambda each: (-each[1], each[0])):
            if weight:
                self.out.write(f"{line} {weight}\n".encode())


def _name(frame: Frame) -> str:
    module = f"_[{frame.module}]" if frame.module else ""
    return _SEPARATORS.sub("_", frame.name + module)
