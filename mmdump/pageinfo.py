"""``mmdump page``: everything known about some pages, from the core and from every plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mmdump.errors import MmdumpError
from mmdump.kernel.arrays import printable
from mmdump.pagefacts import core_facts, sections_by_rank
from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump.pagewords import PageWord
from mmdump.render.values import value_text
from mmdump.result import Column, Kind, Result, Schema, Table
from mmdump.target.faults import error_words
from mmdump.target.summary import summarise

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.plugins import Plugins

__all__ = ["page_info"]

_TYPES: Mapping[str, pl.DataType] = {
    "pfn": pl.Int64(),
    "section": pl.String(),
    "fact": pl.String(),
    "value": pl.String(),
    "number": pl.UInt64(),
    "kind": pl.String(),
    "frames": pl.List(pl.String),
}


def _schema(several: bool) -> Schema:
    """The columns of the facts; with one page its PFN need not stand on every line."""
    return Schema(
        "facts",
        (
            Column("pfn", Kind.PFN, "the page", in_text=several),
            Column("section", description="what the fact belongs to"),
            Column("fact", description="its name"),
            Column("value", description="the fact as text"),
            Column("number", Kind.ID, "the same as a number, where it is one", in_text=False),
            Column("kind", description="what the number is", in_text=False),
            Column(
                "frames",
                description="where the fact is a list, such as a call chain: its elements",
                per_line=True,
            ),
        ),
    )


def page_info(
    kernel: Kernel, plugins: Plugins, words: Sequence[PageWord], *, holders: bool = False
) -> Result:
    """All facts about these pages. A plugin that fails is named, and the others go on.

    :param holders: Search memory for who holds them, too.
    """
    addresses: dict[int, list[int]] = {}
    for word in words:
        addresses.setdefault(word.pfn, [])
        if word.address is not None:
            addresses[word.pfn].append(word.address)
    asked = AskedPages(kernel, list(addresses), addresses, holders=holders)
    found: dict[int, list[Section]] = {pfn: [] for pfn in asked.pfns}
    incomplete: list[str] = []

    def add(who: str, read: Callable[[], Mapping[int, Sequence[Section]]]) -> Exception | None:
        try:
            sections = {pfn: _checked(each) for pfn, each in read().items() if pfn in found}
        except MmdumpError as error:
            incomplete.append(f"{who}: {error.message}")
        except Exception as error:
            incomplete.append(f"{who} failed: {error_words(error)}")
            return error
        else:
            for pfn, each in sections.items():
                found[pfn] += each
        return None

    core = add("struct page", lambda: core_facts(kernel, asked))
    if core is not None:
        raise core
    for plugin, notes in plugins.page_notes():
        error = add(f"plugin {plugin.name}", lambda notes=notes: notes.read(kernel, asked))  # type: ignore[misc]
        if error is not None:
            plugins.failed_in(plugin, error)
    rows = [row for pfn in asked.pfns for row in _rows(pfn, sections_by_rank(found, pfn))]
    schema = _schema(len(asked.pfns) > 1)
    frame = pl.DataFrame(rows, schema=_TYPES, orient="row")
    return Result(
        "page",
        summary=[f"{word.how}: page {word.pfn:#x}" for word in words],
        tables={schema.name: Table(schema, frame)},
        primary=schema.name,
        text_tables=[schema.name],
        incomplete=incomplete,
        target=summarise(kernel.target),
    )


def _checked(sections: Sequence[Section]) -> list[Section]:
    """The sections, if that is what they are.

    :raises TypeError: They are not.
    """
    for section in sections:
        if not isinstance(section, Section) or not all(isinstance(each, Fact) for each in section.facts):
            raise TypeError(f"{section!r} is no section of facts")
    return list(sections)


def _rows(pfn: int, sections: Sequence[Section]) -> list[tuple[Any, ...]]:
    rows = []
    for section in sections:
        for fact in section.facts:
            value = fact.value
            number, frames = None, None
            if isinstance(value, int) and not isinstance(value, bool):
                text = value_text(value, fact.kind)
                number = value if 0 <= value < 1 << 64 else None
            elif value is None or isinstance(value, bool | str):
                text = (
                    value_text(value, fact.kind) if not isinstance(value, str) else printable(value.encode())
                )
            else:
                text, frames = "", [printable(str(each).encode()) for each in value]
            rows.append((pfn, section.title, fact.label, text, number, fact.kind.value, frames))
    return rows
