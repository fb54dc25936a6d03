"""Addresses to names, by a symbol table made by hand as scripts/kallsyms.c makes one."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.symbols import Kallsyms, Symbols, read_kallsyms
from tests.kernel.builders import Kernelish

TABLE = 0xFFFFFFFF82000000
BASE = 0xFFFFFFFF81000000
#: Tokens of several letters; all others stand for themselves.
TOKENS = {0xFF: b"page", 0xFE: b"page_", 0xFD: b"_get_page_"}


class Image:
    """A kernel image with a symbol table."""

    def __init__(
        self,
        symbols: Sequence[tuple[int, str]],
        *,
        form: str = "percpu",
        stext: int | None = BASE,
        kind: bytes = b"T",
    ) -> None:
        self.vmcoreinfo = {} if stext is None else {"SYMBOL(_stext)": f"{stext:x}"}
        names, markers = b"", []
        for row, (_, name) in enumerate(symbols):
            if row % 256 == 0:
                markers.append(len(names))
            packed = self._compress(kind + name.encode())
            size = len(packed)
            names += bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
            names += packed
        index, tokens = [], b""
        for code in range(256):
            index.append(len(tokens))
            tokens += TOKENS.get(code, bytes([code])) + b"\0"
        self.parts = {
            "kallsyms_num_syms": struct.pack("<I", len(symbols)),
            "kallsyms_names": names,
            "kallsyms_markers": struct.pack(f"<{len(markers)}I", *markers),
            "kallsyms_token_table": tokens,
            "kallsyms_token_index": struct.pack("<256H", *index),
            "kallsyms_offsets": b"".join(self._offset(address, form) for address, _ in symbols),
            "kallsyms_relative_base": struct.pack("<Q", BASE),
        }

    @staticmethod
    def _compress(name: bytes) -> bytes:
        for code, text in sorted(TOKENS.items()):
            name = name.replace(text, bytes([code]))
        return name

    @staticmethod
    def _offset(address: int, form: str) -> bytes:
        if form == "relative":
            return struct.pack("<I", address - BASE)
        # Absolute per-CPU offsets are positive, all else counts down from the base.
        return struct.pack("<i", address if address < BASE else BASE - address - 1)

    def target(
        self, *, holes: Sequence[int] = (), lengths: Mapping[str, int] | None = None
    ) -> SimpleNamespace:
        kernel = Kernelish(holes=holes)
        for place, (name, data) in enumerate(self.parts.items()):
            at = TABLE + place * 0x100000
            kernel.symbols[name] = at
            kept = data[: (lengths or {}).get(name, len(data))]
            if kept:
                kernel.add(at, kept + bytes(0 if lengths else -len(kept) % 4096))
        target = kernel.target
        target.vmcoreinfo = self.vmcoreinfo
        self.kernel = kernel
        return target

    def read(self, **how: object) -> Kallsyms | None:
        return read_kallsyms(self.target(**how))


SYMBOLS = [
    (BASE, "_stext"),
    (BASE, "startup_64"),
    (BASE + 0x100, "try_get_page_owner"),
    (BASE + 0x180, "page_pinner"),
    (BASE + 0x180, "alias_of_page_pinner"),
    (BASE + 0x200, "_etext"),
]


@pytest.mark.parametrize("form", ["percpu", "relative"])
def test_an_address_is_in_the_symbol_that_begins_at_or_before_it(form: str) -> None:
    table = Image(SYMBOLS, form=form).read()
    assert table.lookup(BASE) == ("_stext", 0, 0x100)
    assert table.lookup(BASE + 0xFF) == ("_stext", 0xFF, 0x100)
    assert table.lookup(BASE + 0x100) == ("try_get_page_owner", 0, 0x80)
    assert table.lookup(BASE + 0x17F) == ("try_get_page_owner", 0x7F, 0x80)
    assert table.lookup(BASE + 0x1FF) == ("page_pinner", 0x7F, 0x80)


def test_of_several_symbols_at_one_address_the_first_is_taken() -> None:
    assert Image(SYMBOLS).read().lookup(BASE + 0x180) == ("page_pinner", 0, 0x80)


@pytest.mark.parametrize("address", [0, BASE - 1, BASE + 0x200, BASE + 0x10000, (1 << 64) - 1])
def test_before_the_first_symbol_and_from_the_last_on_there_is_none(address: int) -> None:
    assert Image(SYMBOLS).read().lookup(address) is None


def test_per_cpu_symbols_at_small_addresses_come_first() -> None:
    symbols = [(0, "fixed_percpu_data"), (0x1000, "cpu_fbatches"), (0x2000, "__per_cpu_end"), *SYMBOLS]
    table = Image(symbols).read()
    assert table.addresses.tolist() == [address for address, _ in symbols]
    # is_ksym_addr(): they are offsets, and no addresses of the kernel.
    assert table.lookup(0x1008) is None
    assert table.lookup(BASE - 8) is None
    assert table.lookup(BASE + 0x180) == ("page_pinner", 0, 0x80)


def test_the_form_of_the_table_is_the_one_that_knows_stext() -> None:
    """Relative offsets read as per-CPU ones are small ascending addresses, too."""
    table = Image(SYMBOLS, form="relative").read()
    assert int(table.addresses[0]) == BASE
    assert Image(SYMBOLS, stext=BASE + 4).read() is None


@pytest.mark.parametrize("length", [1, 126, 127, 128, 300, 511])
def test_a_name_may_be_as_long_as_the_kernel_allows(length: int) -> None:
    """From 128 bytes on, its type included, the length takes two bytes."""
    name = "x" * length
    table = Image([(BASE, "_stext"), (BASE + 16, name), (BASE + 32, "after"), (BASE + 48, "end")]).read()
    assert table.lookup(BASE + 16) == (name, 0, 16)
    assert table.lookup(BASE + 32) == ("after", 0, 16)


@given(
    st.lists(st.text("abcpage_", min_size=1, max_size=200), min_size=2, max_size=40), st.sampled_from([1, 30])
)
def test_every_name_comes_back(names: list[str], times: int) -> None:
    symbols = [(BASE + 16 * row, name) for row, name in enumerate(names * times)]
    table = Image(symbols, form="relative").read()
    for row, (address, name) in enumerate(symbols[:-1]):
        if row % 29 < 2 or row % 256 in (0, 255):
            assert table.name(row) == name
            assert table.lookup(address + 15) == (name, 15, 16)


def test_a_marker_stands_before_every_256th_name() -> None:
    symbols = [(BASE + 16 * row, f"{'long_' * 90}{row}" if row == 255 else f"f{row}") for row in range(1000)]
    table = Image(symbols).read()
    assert [table.name(row)[-4:] for row in (0, 254, 255, 256, 511, 512, 999)] == [
        "f0",
        "f254",
        "_255",
        "f256",
        "f511",
        "f512",
        "f999",
    ]


def test_names_are_printable() -> None:
    table = Image([(BASE, "_stext"), (BASE + 16, "evil\x1b[2J\n"), (BASE + 32, "end")]).read()
    name, _, _ = table.lookup(BASE + 16)
    assert name == "evil\\x1b[2J\\n"


# Damage


PARTS = list(Image(SYMBOLS).parts)


@pytest.mark.parametrize("missing", PARTS)
def test_without_a_part_of_the_table_there_is_none_or_no_name(missing: str) -> None:
    image = Image(SYMBOLS)
    table = image.read(lengths={missing: 0})
    if table is not None:
        found = table.lookup(BASE + 0x180)
        assert found is None or found[0] in ("", "page_pinner")
    assert Symbols(image.kernel.prog, table).text(BASE + 0x180)


@pytest.mark.parametrize("missing", PARTS)
def test_a_kernel_without_one_of_the_variables_has_no_table(missing: str) -> None:
    target = Image(SYMBOLS).target()
    kernel = Image(SYMBOLS)
    target = kernel.target()
    del kernel.kernel.symbols[missing]
    assert read_kallsyms(target) is None


@pytest.mark.parametrize("stext", ["", "zzz", "-1", "1" * 17, "f" * 40])
def test_what_vmcoreinfo_says_of_stext_may_be_garbage(stext: str) -> None:
    image = Image(SYMBOLS)
    image.vmcoreinfo = {"SYMBOL(_stext)": stext}
    table = image.read()
    assert table is None or table.lookup(BASE) == ("_stext", 0, 0x100)


@pytest.mark.parametrize("where", ["", "zzz", "-5", "f" * 40])
def test_addresses_in_vmcoreinfo_may_be_garbage(where: str) -> None:
    image = Image(SYMBOLS)
    for part in PARTS:
        image.vmcoreinfo = {f"SYMBOL({part})": where}
        table = image.read()
        assert table is None or table.lookup(BASE) is None or isinstance(table.lookup(BASE)[0], str)


@pytest.mark.parametrize("count", [0, (1 << 23) + 1, (1 << 32) - 1])
def test_a_count_that_cannot_be_true_is_no_table(count: int) -> None:
    image = Image(SYMBOLS)
    image.parts["kallsyms_num_syms"] = struct.pack("<I", count)
    assert image.read() is None


def test_addresses_that_do_not_ascend_are_no_table() -> None:
    assert Image([SYMBOLS[2], SYMBOLS[0], SYMBOLS[5]]).read() is None


@given(st.sampled_from(PARTS), st.integers(0, 3000))
def test_a_truncated_table_gives_names_or_none_and_never_fails(part: str, length: int) -> None:
    symbols = [(BASE + 16 * row, f"some_function_{row}" * (row % 12 + 1)) for row in range(300)]
    image = Image(symbols)
    image.vmcoreinfo = {}
    table = image.read(lengths={part: length})
    if table is None:
        return
    for row in (0, 1, 100, 255, 256, 299):
        name = table.name(row)
        assert name is None or name.isprintable()
    text = Symbols(image.kernel.prog, table).text(BASE + 16 * 100 + 4)
    assert text.startswith("0x") or "+0x" in text


@given(st.data())
def test_a_table_of_garbage_never_fails_and_costs_little(data: st.DataObject) -> None:
    image = Image([(BASE + 16 * row, f"f{row}") for row in range(300)])
    image.vmcoreinfo = {}
    for part in data.draw(st.sets(st.sampled_from(PARTS[1:5]), min_size=1)):
        image.parts[part] = data.draw(st.binary(min_size=1, max_size=40)) * 200
    table = image.read()
    for row in (0, 10, 299):
        name = table.name(row)
        assert name is None or len(name) <= 4 * 512


def test_tokens_of_garbage_do_not_make_a_name_of_gigabytes() -> None:
    image = Image([(BASE + 16 * row, f"f{row}") for row in range(300)])
    image.parts["kallsyms_token_table"] = b"A" * (1 << 17)
    image.parts["kallsyms_token_index"] = struct.pack("<256H", *range(256))[:-2] + struct.pack("<H", 65000)
    # One name of 32767 bytes.
    image.parts["kallsyms_names"] = b"\xff\xff" + b"a" * 40000
    start = time.monotonic()
    name = image.read().name(0)
    assert name is None or len(name) <= 512
    assert time.monotonic() - start < 2


# Text


def test_text_is_what_the_kernel_prints() -> None:
    image = Image(SYMBOLS)
    symbols = Symbols(image.target().prog, image.read())
    assert symbols.text(BASE + 0x184) == "page_pinner+0x4/0x80"
    assert symbols.text(BASE + 0x100) == "try_get_page_owner+0x0/0x80"


def test_without_a_table_the_symbols_of_the_program_name_an_address_and_else_none() -> None:
    kernel = Kernelish()
    kernel.symbols["module_function"] = 0xFFFFFFFFC0000000
    symbols = Symbols(kernel.prog, None)
    assert symbols.text(0xFFFFFFFFC0000000) == "module_function+0x0/0x1"
    assert symbols.text(0x1234) == "0x1234"
    assert symbols.text((1 << 64) - 1) == "0xffffffffffffffff"
