"""Overlapping byte ranges, of which the later ones win, as disjoint sorted pieces."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Piece", "overlay"]


class Piece(NamedTuple):
    """What no later range covers of range ``number``, by its place in the input: bytes [start, end)."""

    start: int
    end: int
    number: int


def overlay(ranges: Sequence[tuple[int, int]]) -> list[Piece]:
    """Cut overlapping ranges into disjoint pieces.

    :param ranges: (start, end) in the order they were added; a later one hides an earlier one, as in
        drgn's memory segments and in makedumpfile's flattened format. Empty ranges are ignored.
    :return: Non-empty pieces, sorted by address. O(n log n) in the number of ranges.
    """
    order = sorted(
        (index for index, (start, end) in enumerate(ranges) if start < end), key=lambda i: ranges[i][0]
    )
    pieces: list[Piece] = []
    active: list[int] = []  # negated indices: the latest range is on top
    following = 0
    position = 0
    while following < len(order) or active:
        if not active:
            position = max(position, ranges[order[following]][0])
        while following < len(order) and ranges[order[following]][0] <= position:
            heapq.heappush(active, -order[following])
            following += 1
        while active and ranges[-active[0]][1] <= position:
            heapq.heappop(active)
        if not active:
            continue
        index = -active[0]
        end = ranges[index][1]
        if following < len(order):
            end = min(end, ranges[order[following]][0])
        if pieces and pieces[-1].number == index and pieces[-1].end == position:
            pieces[-1] = Piece(pieces[-1].start, end, index)
        else:
            pieces.append(Piece(position, end, index))
        position = end
    return pieces
