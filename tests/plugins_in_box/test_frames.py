"""Frames as text: source lines, inlined functions, and modules without debug info."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import drgn
import pytest

from mmdump_page_owner import modules
from mmdump_page_owner.frames import Frames
from mmdump_page_owner.modules import Modules

TREE = "/build/linux-6.12/"


class Location(SimpleNamespace):
    def name(self) -> str | None:
        return self.function


def location(function: str | None, file: str, line: int) -> Location:
    return Location(function=function, filename=file, line=line)


def frames(lines: bool = False, inline: bool = False) -> Frames:
    """Of a kernel where 0x1010 returns to pipe_write(), into which put_page() was inlined."""

    def source_location(where: object) -> list[Location]:
        if where == "start_kernel":
            return [location("start_kernel", f"{TREE}init/main.c", 900)]
        if where == 0x100F:
            return [
                location("put_page", f"{TREE}include/linux/mm.h", 7),
                location("pipe_write", f"{TREE}fs/pipe.c", 513),
            ]
        raise LookupError("no source location")

    texts = {0x1010: "pipe_write+0x10/0x20", 0x2000: "entry+0x0/0x1"}
    kernel: Any = SimpleNamespace(
        target=SimpleNamespace(prog=SimpleNamespace(source_location=source_location)),
        symbols=SimpleNamespace(text=texts.__getitem__),
    )
    return Frames(kernel, lines, inline)


@pytest.mark.parametrize(
    ("lines", "inline", "texts"),
    [
        (False, False, ["pipe_write+0x10/0x20"]),
        (True, False, ["pipe_write+0x10/0x20 (fs/pipe.c:513)"]),
        (False, True, ["put_page", "pipe_write+0x10/0x20"]),
        (True, True, ["put_page (include/linux/mm.h:7)", "pipe_write+0x10/0x20 (fs/pipe.c:513)"]),
    ],
)
def test_a_frame_is_where_the_call_was_made_not_where_it_returns_to(lines, inline, texts) -> None:
    of = frames(lines, inline)
    assert of.texts(0x1010) == texts
    assert of.any_line == (lines or inline)


def test_a_frame_without_source_is_as_the_kernel_prints_it() -> None:
    of = frames(lines=True, inline=True)
    assert of.texts(0x2000) == ["entry+0x0/0x1"]
    assert not of.any_line


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("f+0x1/0x2 [nic]", "nic"),
        ("0xffffffffc0000000 [nic]", "nic"),
        ("f+0x1/0x2", None),
        ("f[1]x+0x1/0x2", None),
    ],
)
def test_the_module_of_a_frame_is_the_one_that_its_text_names(text: str, module: str | None) -> None:
    kernel: Any = SimpleNamespace(symbols=SimpleNamespace(text=lambda _: text), target=None)
    of = Frames(kernel)
    of._plain[0] = text
    assert of.module(0) == module


@pytest.fixture
def two_modules(monkeypatch: pytest.MonkeyPatch) -> Modules:
    """Modules nic (with symbols) and fs (without), at 0x1000 and 0x8000."""
    nic, fs = SimpleNamespace(name="nic"), SimpleNamespace(name="fs")
    places = {"nic": [(0x1000, 0x1000), (0x5000, 0)], "fs": [(0x8000, 0x100)]}
    symbols = {"nic": [(0x1000, "first"), (0x1100, "rx"), (0x1100, "rx_alias")], "fs": []}
    monkeypatch.setattr("drgn.helpers.linux.module.for_each_module", lambda _: iter([fs, nic]))
    monkeypatch.setattr("drgn.helpers.linux.module.module_address_regions", lambda each: places[each.name])
    monkeypatch.setattr(modules, "c_string", lambda name: name)
    monkeypatch.setattr(modules, "_symbols_of", lambda each: symbols[each.name])
    return Modules(drgn.Program())


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (0xFFF, None),
        (0x1000, "first+0x0/0x100 [nic]"),
        (0x10FF, "first+0xff/0x100 [nic]"),
        (0x1FFF, "rx_alias+0xeff/0xf00 [nic]"),
        (0x2000, None),
        (0x8010, "0x8010 [fs]"),
        (0x8100, None),
    ],
)
def test_an_address_in_a_module_is_named_by_the_modules_own_symbols(two_modules, address, text) -> None:
    assert two_modules.text(address) == text


def test_a_list_of_modules_without_an_end_is_read_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(prog: drgn.Program):
        while True:
            yield SimpleNamespace(name="loop")

    monkeypatch.setattr("drgn.helpers.linux.module.for_each_module", forever)
    monkeypatch.setattr("drgn.helpers.linux.module.module_address_regions", lambda _: [(0x1000, 1)])
    monkeypatch.setattr(modules, "c_string", lambda name: name)
    monkeypatch.setattr(modules, "_symbols_of", lambda _: [])
    monkeypatch.setattr(modules, "_MAX_MODULES", 50)
    of = Modules(drgn.Program())
    assert of.text(0x1000) == "0x1000 [loop]"
    assert len(of._modules) == 50


def test_a_kernel_without_modules_has_none() -> None:
    assert Modules(drgn.Program()).text(0xFFFFFFFFC0000000) is None
