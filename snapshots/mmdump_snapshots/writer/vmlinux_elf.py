"""``vmlinux`` as a file: an ELF executable with symbols and debug info, and little of the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mmdump_snapshots.writer import elf
from mmdump_snapshots.writer.addresses import START_KERNEL_MAP

if TYPE_CHECKING:
    from mmdump_snapshots.writer.vmlinux import Region, Symbol, Vmlinux

__all__ = ["vmlinux_elf"]

_FLAGS = {
    ".text": elf.SHF_ALLOC | elf.SHF_EXECINSTR,
    ".init.text": elf.SHF_ALLOC | elf.SHF_EXECINSTR,
    ".notes": elf.SHF_ALLOC,
}


def vmlinux_elf(image: Vmlinux) -> bytes:
    """The file."""
    sections = [_section(image, region) for region in image.regions.values()]
    loaded = len(sections)
    for name, data in image.debug_info.items():
        strings = name == ".debug_str"
        flags = elf.SHF_MERGE | elf.SHF_STRINGS if strings else 0
        sections.append(elf.Section(name, elf.SHT_PROGBITS, flags, data=data, entsize=int(strings), align=1))
    table, names, local = _symbol_table(image, [each.name for each in sections])
    link = len(sections) + 2  # the null section comes first, .strtab after .symtab
    sections += [
        elf.Section(
            ".symtab",
            elf.SHT_SYMTAB,
            data=table,
            link=link,
            info=local,
            align=8,
            entsize=elf.SYM.itemsize,
        ),
        elf.Section(".strtab", elf.SHT_STRTAB, data=names),
    ]
    strings_of_headers = elf.StringTable()
    for each in (*sections, elf.Section(".shstrtab", elf.SHT_STRTAB)):
        strings_of_headers.add(each.name)
    sections.append(elf.Section(".shstrtab", elf.SHT_STRTAB, data=bytes(strings_of_headers)))
    phnum = loaded + 1
    first = elf.EHDR_SIZE + phnum * elf.PHDR.itemsize
    placed, end = elf.place(sections, first)
    shoff = -(-end // 8) * 8
    out = bytearray(shoff)
    out[: elf.EHDR_SIZE] = elf.header(
        elf.ET_DYN if image.profile.arch == "aarch64" else elf.ET_EXEC,
        image.profile.arch,
        phnum=phnum,
        shnum=len(placed) + 1,
        shoff=shoff,
        shstrndx=len(placed),
        entry=image.start,
    )
    out[elf.EHDR_SIZE : first] = elf.program_headers(_segments(image, placed[:loaded]))
    for each in placed:
        if each.data is not None:
            out[each.offset : each.offset + len(each.data)] = each.data
    return bytes(out + bytes(elf.SHDR.itemsize) + elf.section_headers(placed, strings_of_headers))


def _section(image: Vmlinux, region: Region) -> elf.Section:
    """A section of the image: with contents where drgn wants them, or wants to see that there are any."""
    kind = elf.SHT_NOTE if region.name == ".notes" else elf.SHT_PROGBITS
    data = None
    if region.name in {".rodata", ".notes", ".init.text"}:
        raw = bytearray(region.size)
        for address, content in image.contents:
            if region.address <= address < region.end:
                raw[address - region.address : address - region.address + len(content)] = content
        data = bytes(raw)
    else:
        kind = elf.SHT_NOBITS
    flags = _FLAGS.get(region.name, elf.SHF_ALLOC | elf.SHF_WRITE)
    align = 4 if region.name == ".notes" else 4096
    return elf.Section(region.name, kind, flags, region.address, data, region.size, align=align)


def _segments(image: Vmlinux, sections: Iterable[elf.Section]) -> Iterator[elf.Segment]:
    physical = 0 if image.profile.arch == "aarch64" else START_KERNEL_MAP
    for each in sections:
        flags = elf.PF_R | (elf.PF_X if each.flags & elf.SHF_EXECINSTR else 0)
        flags |= elf.PF_W if each.flags & elf.SHF_WRITE else 0
        size = len(each.data or b"")
        load = image.regions[each.name].load - physical
        yield elf.Segment(elf.PT_LOAD, flags, each.offset, each.address, load, size, each.size, each.align)
        if each.type == elf.SHT_NOTE:
            note = elf.Segment(elf.PT_NOTE, elf.PF_R, each.offset, each.address, load, size, align=4)
    yield note


def _symbol_table(image: Vmlinux, sections: list[str]) -> tuple[bytes, bytes, int]:
    """``.symtab``, ``.strtab`` and how many symbols are local."""
    strings = elf.StringTable()
    index = {name: number for number, name in enumerate(sections, 1)}
    kinds = {"function": elf.STT_FUNC, "object": elf.STT_OBJECT, "notype": elf.STT_NOTYPE}

    def row(name: str, symbol: Symbol, binding: int) -> tuple[int, int, int, int, int, int]:
        info = binding << 4 | kinds[symbol.kind]
        return strings.add(name), info, 0, index[symbol.section], symbol.address, symbol.size

    local = []
    static: dict[str, list[tuple[str, Symbol]]] = {}
    for name, symbol in image.all_symbols:
        if symbol.static:
            static.setdefault(symbol.file or "", []).append((name, symbol))
    for file, pairs in sorted(static.items()):
        of_file = strings.add(file.rpartition("/")[2])
        local.append((of_file, elf.STB_LOCAL << 4 | elf.STT_FILE, 0, elf.SHN_ABS, 0, 0))
        local += [row(*pair, elf.STB_LOCAL) for pair in pairs]
    shared = [row(*pair, elf.STB_GLOBAL) for pair in image.all_symbols if not pair[1].static]
    table = elf.symbols([*local, *shared])
    return table.tobytes(), bytes(strings), len(local) + 1
