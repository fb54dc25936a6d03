"""Who allocated what, and slabs, before they have a layout: parts of :class:`.state.State`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SlabState", "TagState"]


@dataclass(frozen=True)
class TagState:
    """Memory allocation profiling.

    :ivar functions: Those that have a tag and counters.
    :ivar bytes: By CPU and function.
    :ivar calls: By CPU and function.
    :ivar compressed: Whether pages have the numbers of tags in ``flags``, not pointers in page_ext.
    """

    functions: Sequence[str]
    bytes: Sequence[Sequence[int]]
    calls: Sequence[Sequence[int]]
    compressed: bool = False


@dataclass(frozen=True)
class SlabState:
    """A slab.

    :ivar pfn: Its first page.
    :ivar cache: Name of its cache.
    :ivar size: Bytes from one object to the next.
    :ivar objects: How many it has room for.
    :ivar used: Numbers of those in use, ascending.
    :ivar tags: Of each of these, index into ``State.tags.functions`` plus one, or 0.
    """

    pfn: int
    cache: str
    size: int
    objects: int
    used: Sequence[int]
    tags: Sequence[int]
