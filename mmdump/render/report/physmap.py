"""The map of physical memory: a picture that needs no script, and the numbers behind it for one that has."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mmdump.amounts import bytes_text
from mmdump.document import Report
from mmdump.render.values import value_text
from mmdump.result import Kind, Map, Table

__all__ = ["COLORS", "Drawing", "Part", "map_of"]

#: Colours of parts that are known by name, for dark and for light ground alike; others take the spare ones.
#: Those that must not be taken for each other differ in lightness, not in hue alone.
COLORS: Mapping[str, tuple[int, int, int]] = {
    "pinned": (190, 18, 32),
    "unmovable": (232, 150, 20),
    "cma": (142, 75, 180),
    "movable": (52, 112, 186),
    "free": (134, 205, 148),
    "reported": (214, 238, 214),
    "reserved": (120, 124, 132),
}
_SPARE = ((23, 160, 170), (190, 90, 140), (140, 110, 60), (90, 90, 200))
_UNKNOWN = (60, 60, 60)
#: Parts that are seen however small they are: of these one page decides what becomes of its block.
_TELLING = ("pinned",)
#: Bytes of the numbers in the document, and cells of the picture.
_MOST_BYTES, _MOST_CELLS = 400_000, 1 << 17


@dataclass(frozen=True)
class Part:
    """What pages are used for: its colour, and how many there are."""

    name: str
    description: str
    color: str
    size: str
    share: str
    width: float


@dataclass(frozen=True)
class Drawing:
    """A map.

    :param image: A picture of one pixel for each cell, as a data URL.
    :param columns: Cells in a row of it.
    :param numbers: What each cell holds, for the script: base64 of deflated columns, or empty.
    :param shape: How to read these, as JSON.
    :param cell: What a cell is, in words.
    """

    section: str
    image: str
    columns: int
    rows: int
    cells: int
    numbers: str
    shape: str
    cell: str
    parts: Sequence[Part]
    sums: Sequence[tuple[str, str]]


def map_of(report: Report) -> Drawing | None:
    """The first table that is a map, drawn; None where there is none."""
    for section in report.sections:
        for table in section.result.tables.values() if section.result is not None else ():
            if isinstance(table.schema.chart, Map) and table.frame.height:
                page = report.target.get("page_size")
                return _drawn(
                    section.name, table, table.schema.chart, page if isinstance(page, int) else 4096
                )
    return None


def _drawn(section: str, table: Table, chart: Map, page_size: int) -> Drawing:
    frame = _reduced(table.frame, chart, _MOST_CELLS)
    numbers, shape = _numbers(frame, chart)
    while len(numbers) > _MOST_BYTES and frame.height > 1:
        frame = _reduced(frame, chart, frame.height // 2)
        numbers, shape = _numbers(frame, chart)
    colors = _colors(chart.parts)
    counts = np.stack([frame[name].to_numpy() for name in chart.parts], axis=1).astype(np.int64)
    pages = frame[chart.pages].to_numpy().astype(np.int64)
    image, columns = _picture(counts, pages, colors, chart.parts)
    total = max(int(pages.sum()), 1)
    parts = [
        Part(
            name,
            table.schema.column(name).description,
            "#{:02x}{:02x}{:02x}".format(*color),
            bytes_text(int(counts[:, index].sum()) * page_size),
            f"{100 * int(counts[:, index].sum()) / total:.1f} %",
            100 * int(counts[:, index].sum()) / total,
        )
        for index, (name, color) in enumerate(zip(chart.parts, colors, strict=True))
    ]
    size = int(np.median(pages))
    return Drawing(
        section,
        image,
        columns,
        -(-len(pages) // columns),
        len(pages),
        numbers,
        json.dumps(shape | {"page": page_size, "colors": [part.color for part in parts]}),
        f"{value_text(size, Kind.COUNT)} pages ({bytes_text(size * page_size)})",
        [part for part in parts if part.width],
        [(part.name, part.size) for part in parts],
    )


def _reduced(frame: pl.DataFrame, chart: Map, most: int) -> pl.DataFrame:
    """Neighbouring cells together, until there are no more than so many."""
    if frame.height <= most:
        return frame
    at_once = -(-frame.height // most)
    labels = [
        pl.when(pl.col(name).n_unique() == 1).then(pl.col(name).first()).otherwise(None).alias(name)
        for name in chart.labels
    ]
    return (
        frame.with_row_index("_row")
        .group_by(pl.col("_row") // at_once, maintain_order=True)
        .agg(
            pl.col(chart.start).first(),
            pl.col(chart.pages).sum(),
            *(pl.col(name).sum() for name in chart.parts),
            *labels,
        )
        .drop("_row")
    )


def _numbers(frame: pl.DataFrame, chart: Map) -> tuple[str, dict[str, object]]:
    """Columns of 32-bit numbers, one after the other: start, pages, parts, labels by number."""
    names: dict[str, list[str]] = {}
    columns = [frame[name].to_numpy() for name in (chart.start, chart.pages, *chart.parts)]
    for label in chart.labels:
        texts = frame[label].cast(pl.String).fill_null("-")
        distinct = texts.unique(maintain_order=True).to_list()
        names[label] = [value_text(each, Kind.TEXT) for each in distinct]
        columns.append(
            texts.replace_strict(distinct, list(range(len(distinct))), return_dtype=pl.UInt32).to_numpy()
        )
    # Of cells in a row the start hardly ever says anything new: its steps are all the same.
    columns[0] = np.diff(columns[0], prepend=0)
    words = np.stack(columns).astype(np.uint32)
    packed = base64.b64encode(zlib.compress(words.astype("<u4").tobytes(), 9)).decode()
    return packed, {"cells": frame.height, "parts": list(chart.parts), "labels": names}


def _colors(parts: Sequence[str]) -> list[tuple[int, int, int]]:
    spare = iter(_SPARE * (len(parts) // len(_SPARE) + 1))
    return [COLORS.get(name) or next(spare) for name in parts]


def _picture(
    counts: np.ndarray, pages: np.ndarray, colors: Sequence[tuple[int, int, int]], parts: Sequence[str]
) -> tuple[str, int]:
    """One pixel for each cell: the colour of what most of it is, or of a part that always tells."""
    palette = np.array([*colors, _UNKNOWN], np.uint8)
    unknown = np.maximum(pages - counts.sum(axis=1), 0)
    of = np.concatenate([counts, unknown[:, None]], axis=1).argmax(axis=1)
    for name in reversed(_TELLING):
        if name in parts:
            index = parts.index(name)
            of[counts[:, index] > 0] = index
    columns = 32
    while columns * columns < 4 * len(of) and columns < 1024:
        columns *= 2
    rows = -(-len(of) // columns)
    # What lies behind the last cell is nothing: transparent.
    pixels = np.zeros((rows * columns, 4), np.uint8)
    pixels[: len(of), :3] = palette[of]
    pixels[: len(of), 3] = 255
    lines = pixels.reshape(rows, columns * 4)
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    return "data:image/png;base64," + base64.b64encode(_png(columns, rows, raw)).decode(), columns


def _png(width: int, height: int, lines: bytes) -> bytes:
    """A PNG of 8-bit RGBA; each line begins with its filter, 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pieces = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)
