"""A flame graph: call chains from the outermost function down, as wide as what they weigh."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmdump.document import Report, Section
from mmdump.render.stacks import Chains, chains_of, weighed_tables
from mmdump.render.values import value_text
from mmdump.result import Kind, Result, Table

__all__ = ["Bar", "Flame", "flame_of"]

#: Frames that are drawn, and levels; what is narrower than a share of the whole is not.
_MOST_BARS, _MOST_LEVELS, _LEAST_SHARE = 1200, 64, 0.001
#: Rows whose chains are looked at.
_MOST_CHAINS = 3000
#: Hues from red to yellow, as everywhere.
_HUES = 55


@dataclass(frozen=True)
class Bar:
    """A function in the graph.

    :param level: 0 is the outermost.
    :param left: Where it begins, in percent of the whole.
    :param width: In percent.
    :param share: Of the whole, in percent, as text.
    """

    name: str
    module: str
    level: int
    left: float
    width: float
    value: str
    share: str

    @property
    def hue(self) -> int:
        """A colour: the same for the same function, everywhere."""
        return zlib.crc32(self.name.encode()) % _HUES


@dataclass(frozen=True)
class Flame:
    """A flame graph.

    :param by: The column that is counted.
    :param hidden: Frames that are too narrow to be drawn.
    """

    section: str
    by: str
    total: str
    levels: int
    bars: Sequence[Bar]
    hidden: int


@dataclass
class _Node:
    name: str
    module: str
    weight: int = 0
    below: dict[tuple[str, str], _Node] = field(default_factory=dict)


def flame_of(report: Report) -> Flame | None:
    """The graph of the section whose call chains weigh most in bytes; None where there is none."""
    best: tuple[int, Section, Result, Table, str] | None = None
    for section in report.sections:
        result = section.result
        for name in weighed_tables(result) if result is not None else ():
            assert result is not None
            table = result.tables[name]
            weight = next(
                (each.name for each in table.schema.columns if each.weight and each.kind is Kind.BYTES), None
            )
            total = 0 if weight is None else int(table.frame[weight].sum() or 0)
            if weight is not None and total > 0 and (best is None or total > best[0]):
                best = total, section, result, table, weight
    if best is None:
        return None
    total, section, result, table, weight = best
    # Of a chain that is none of the heaviest nothing could be seen.
    heaviest = Table(table.schema, table.frame.sort(weight, descending=True).head(_MOST_CHAINS))
    return _drawn(total, section, chains_of(result, heaviest, weight))


def _drawn(total: int, section: Section, chains: Chains) -> Flame:
    root = _Node("all", "", total)
    for chain, weight in chains.folded(chains.chosen).items():
        node = root
        for frame in list(reversed(chain))[:_MOST_LEVELS]:
            node = node.below.setdefault((frame.name, frame.module), _Node(frame.name, frame.module))
            node.weight += weight
    bars: list[Bar] = []
    kind = chains.weights[chains.chosen].kind
    hidden = 0
    # The widest first, so that what is left out for want of room is the narrowest.
    waiting = [(-root.weight, 0, 0, 0, root)]
    counter = 0
    while waiting:
        negative, _, level, start, node = heapq.heappop(waiting)
        weight = -negative
        if weight < total * _LEAST_SHARE or len(bars) >= _MOST_BARS:
            hidden += 1
            continue
        share = 100 * weight / total
        bars.append(
            Bar(
                node.name,
                node.module,
                level,
                100 * start / total,
                share,
                value_text(weight, kind),
                f"{share:.1f} %",
            )
        )
        at = start
        for below in sorted(node.below.values(), key=lambda each: (-each.weight, each.name)):
            counter += 1
            heapq.heappush(waiting, (-below.weight, counter, level + 1, at, below))
            at += below.weight
    bars.sort(key=lambda bar: (bar.level, bar.left))
    return Flame(
        section.name,
        chains.weights[chains.chosen].name,
        value_text(total, kind),
        1 + max(bar.level for bar in bars),
        bars,
        hidden,
    )
