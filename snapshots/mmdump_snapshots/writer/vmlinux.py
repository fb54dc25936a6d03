"""The kernel image as the linker made it, and ``vmlinux``: its symbols and debug info as a file.

Nothing in it runs: functions have a place and a size, variables a place and a type. What the kernel's memory
has in these places is for others to write, but for what the linker put there (:attr:`Vmlinux.contents`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from mmdump_snapshots.kernels import CType, Profile, Variable
from mmdump_snapshots.kernels.functions import functions
from mmdump_snapshots.kernels.rodata import strings
from mmdump_snapshots.writer.addresses import ARM64_TEXT, X86_TEXT
from mmdump_snapshots.writer.dwarf import DebugInfo
from mmdump_snapshots.writer.elf import NT_GNU_BUILD_ID, note
from mmdump_snapshots.writer.vmlinux_elf import vmlinux_elf

__all__ = ["IMAGE_LIMIT", "Region", "Symbol", "Vmlinux", "vmlinux"]

#: The image is smaller than this, in bytes.
IMAGE_LIMIT = 16 << 20

#: Where variables go that ask for a section that the linker makes part of another.
_PART_OF = {
    ".data..read_mostly": ".data",
    ".data..cacheline_aligned": ".data",
    ".data..page_aligned": ".data",
    ".data..ro_after_init": ".rodata",
    ".bss..page_aligned": ".bss",
    ".ref.data": ".data",
}
#: Types that a source file declares for itself: other files may have others of that name.
_OF_FILE = {
    "struct page_owner": "mm/page_owner.c",
    "struct stack": "mm/page_owner.c",
    "struct page_pinner": "mm/page_pinner.c",
}
#: The source file of what has none.
_MAIN = "init/main.c"
#: Bytes of a function that is declared and nothing more.
_SIZE = 0x100


@dataclass(frozen=True)
class Symbol:
    """A symbol.

    :ivar address: Where the linker put it.
    :ivar size: Bytes; 0 for the bounds of sections.
    :ivar kind: ``function``, ``object`` or ``notype``.
    :ivar file: The source file that defines it, if that is known.
    :ivar section: Name of the section that it is in.
    """

    address: int
    size: int
    kind: str
    file: str | None
    section: str
    static: bool = False


@dataclass(frozen=True)
class Region:
    """A section of the image.

    :ivar address: Where it was linked.
    :ivar load: The link address of the place in the image where it is; other than ``address`` only for the
        per-CPU section of x86-64 up to 6.14.
    """

    name: str
    address: int
    size: int
    load: int

    @property
    def end(self) -> int:
        """One past its last address."""
        return self.address + self.size


class Vmlinux:
    """The image of a kernel: where everything is, before KASLR.

    :ivar release: ``uname -r``.
    :ivar banner: ``linux_banner``.
    :ivar start: ``_text``, the first byte of the image.
    :ivar end: ``_end``.
    :ivar regions: Sections by name.
    :ivar symbols: By name; of static ones of the same name the first.
    :ivar all_symbols: (name, symbol), in order of addresses within each section.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.release = f"{profile.version[0]}.{profile.version[1]}.0"
        self.banner = f"Linux version {self.release} (mmdump@snapshots) (cc) #1 SMP {profile.name}\n"
        self.regions: dict[str, Region] = {}
        self.all_symbols: list[tuple[str, Symbol]] = []
        self._variables: dict[tuple[str, str | None], tuple[Variable, int]] = {}
        self._by_name: dict[str, list[tuple[Variable, int]]] = {}
        arm = profile.arch == "aarch64"
        self.start = ARM64_TEXT if arm else X86_TEXT
        self._cursor = self.start
        by_section = self._by_section()
        for name in _order(profile):
            self._lay_out(name, by_section.get(name, []))
        self.end = -(-self._cursor // profile.page_size) * profile.page_size
        if self.end - self.start > IMAGE_LIMIT:
            raise ValueError(f"{profile.name}: an image of {self.end - self.start:#x} bytes is too large")
        self._bounds()
        self.symbols: dict[str, Symbol] = {}
        for name, symbol in self.all_symbols:
            before = self.symbols.get(name)
            if before is None or (before.static and not symbol.static):
                self.symbols[name] = symbol

    # Layout

    def _by_section(self) -> dict[str, list[Variable]]:
        """The variables of each section; of one that is declared more than once, the first."""
        found: dict[tuple[str, str | None], Variable] = {}
        for each in self.profile.variables:
            found.setdefault((each.name, each.file if each.static else None), each)
        sections: dict[str, list[Variable]] = {}
        for each in found.values():
            sections.setdefault(_section(each), []).append(each)
        if unknown := sections.keys() - set(_order(self.profile)):
            raise ValueError(f"{self.profile.name}: no sections {', '.join(sorted(unknown))}")
        return sections

    def _lay_out(self, name: str, variables: list[Variable]) -> None:
        load = self._cursor = -(-self._cursor // _align(self.profile, name)) * _align(self.profile, name)
        moved = name == ".data..percpu" and _percpu_at_zero(self.profile)
        start = 0 if moved else load
        if name == ".text":
            end = self._functions(start)
        elif name == ".notes":
            end = start + len(note("GNU", NT_GNU_BUILD_ID, bytes(20)))
        elif name == ".init.text":
            end = start + 16
        else:
            # fixed_percpu_data: the stack protector's canary is at a fixed place.
            end = start + 48 if moved else start
            for each in variables:
                size = max(each.type.size, 1)
                align = max(each.type.align, 32 if size >= 32 else 8)
                if each.section.endswith("..page_aligned"):
                    align = self.profile.page_size
                    size = -(-size // align) * align
                address = -(-end // align) * align
                end = address + size
                self._variables[each.name, each.file] = each, address
                self._by_name.setdefault(each.name, []).append((each, address))
                symbol = Symbol(address, each.type.size, "object", each.file, name, each.static)
                self.all_symbols.append((each.name, symbol))
        if name == ".rodata":
            self._strings = end
            end += len(self._unnamed())
        self.regions[name] = Region(name, start, end - start, load)
        self._cursor = load + end - start

    def _unnamed(self) -> bytes:
        """Strings without a name (``.rodata.str``)."""
        return b"".join(b"\0" + text.encode() for text in strings(self.profile)) + b"\0"

    def _functions(self, start: int) -> int:
        """Functions, file by file. :return: Where they end."""
        # Code that the boot loader jumps to comes first.
        position = start + (0x10000 if self.profile.arch == "aarch64" else 0x1000)
        for name, size, file, static in _functions(self.profile):
            self.all_symbols.append((name, Symbol(position, size, "function", file, ".text", static)))
            position += -(-size // 16) * 16
        return position

    def _bounds(self) -> None:
        """The symbols at the bounds of sections, as the linker script has them."""
        region = self.regions
        text, rodata, data, bss = region[".text"], region[".rodata"], region[".data"], region[".bss"]
        init, init_data, percpu = region[".init.text"], region[".init.data"], region[".data..percpu"]
        notes = region[".notes"]
        arm = self.profile.arch == "aarch64"
        # .data follows what is needed at boot only on arm64, precedes it on x86-64.
        freed = max(init_data.end, percpu.end) if percpu.address else init_data.end
        bounds = [
            ("_text", text.address, ".text"),
            ("_stext", text.address + (0x10000 if arm else 0), ".text"),
            ("_etext", text.end, ".text"),
            ("__start_rodata", rodata.address, ".rodata"),
            ("__end_rodata", notes.end, ".notes"),
            ("__start_notes", notes.address, ".notes"),
            ("__stop_notes", notes.end, ".notes"),
            ("_sdata", data.address, ".data"),
            ("_edata", data.end, ".data"),
            ("__per_cpu_load", percpu.load, ".data..percpu"),
            ("__per_cpu_start", percpu.address, ".data..percpu"),
            ("__per_cpu_end", percpu.end, ".data..percpu"),
            ("__init_begin", init.address, ".init.text"),
            ("_sinittext", init.address, ".init.text"),
            ("_einittext", init.end, ".init.text"),
            ("__init_end", freed, ".init.data"),
            ("__bss_start", bss.address, ".bss"),
            ("__bss_stop", bss.end, ".bss"),
            ("_end", self.end, ".bss"),
        ]
        if "_alloc_tag" in self._by_name:
            # The section of allocation tags, a part of .data; it ends where they do.
            _, address = self._by_name["_alloc_tag"][0]
            end = address + len(functions(self.profile)) * self.profile.types.sizeof("struct alloc_tag")
            bounds += [("__start_alloc_tags", address, ".data"), ("__stop_alloc_tags", end, ".data")]
        self.all_symbols += [
            (name, Symbol(address, 0, "notype", None, section)) for name, address, section in bounds
        ]
        if percpu.address == 0:
            fixed = Symbol(0, 48, "object", "arch/x86/kernel/cpu/common.c", ".data..percpu")
            self.all_symbols.append(("fixed_percpu_data", fixed))
        if not arm:
            # One is a macro for the other; VMCOREINFO has both.
            table, address = self._by_name["swapper_pg_dir"][0]
            symbol = Symbol(address, table.type.size, "object", table.file, _section(table))
            self.all_symbols.append(("init_top_pgt", symbol))

    # What is where

    def variable(self, name: str, file: str | None = None) -> tuple[int, CType]:
        """The link address and type of a variable.

        :param file: The source file, for static ones whose name is not unique.
        :raises KeyError: There is none.
        """
        if (name, file) in self._variables:
            found = self._variables[name, file]
        else:
            alike = [pair for pair in self._by_name.get(name, ()) if file is None or pair[0].file is None]
            if not alike:
                raise KeyError(
                    f"{self.profile.name} has no variable {name}" + (f" in {file}" if file else "")
                )
            found = min(alike, key=lambda pair: pair[0].static)
        return found[1], found[0].type

    def variables(self) -> Iterator[tuple[Variable, int]]:
        """All variables and their link addresses."""
        return iter(self._variables.values())

    @cached_property
    def contents(self) -> tuple[tuple[int, bytes], ...]:
        """(link address, bytes) of what the linker put into the image: ``linux_banner``, strings, notes."""
        return (
            (self.variable("linux_banner")[0], self.banner.encode() + b"\0"),
            (self._strings, self._unnamed()),
            (self.regions[".notes"].address, note("GNU", NT_GNU_BUILD_ID, self.build_id)),
        )

    # The file

    @cached_property
    def debug_info(self) -> dict[str, bytes]:
        """``.debug_info`` and what belongs to it, by section name."""
        types = self.profile.types
        info = DebugInfo(_MAIN)
        for name in types:
            info.type(types[name], _OF_FILE.get(name))
        for kind in types.anonymous:
            info.type(kind)
        for each, address in self.variables():
            info.variable(each.name, each.type, address, each.file or _MAIN, static=each.static)
        prototypes = {each.name: each.type for each in self.profile.prototypes}
        for name, symbol in self.all_symbols:
            if symbol.kind == "function":
                info.function(
                    name,
                    symbol.address,
                    symbol.size,
                    symbol.file or _MAIN,
                    prototypes.get(name),
                    static=symbol.static,
                )
        return info.sections()

    @cached_property
    def build_id(self) -> bytes:
        """20 bytes; another for everything that differs."""
        digest = hashlib.sha1(self.banner.encode(), usedforsecurity=False)
        for name, data in self.debug_info.items():
            digest.update(name.encode() + data)
        for name, symbol in self.all_symbols:
            digest.update(f"{name} {symbol}\n".encode())
        return digest.digest()

    @cached_property
    def elf(self) -> bytes:
        """The file ``vmlinux``: symbols and debug info; of the image only what :attr:`contents` has."""
        return vmlinux_elf(self)


def _section(variable: Variable) -> str:
    """The section that a variable ends up in: the linker joins many."""
    name = variable.section
    if name.startswith(".data..percpu"):
        return ".data..percpu"
    return _PART_OF.get(name, name)


def _percpu_at_zero(profile: Profile) -> bool:
    """Whether the per-CPU section is linked at address 0 and not relocated: x86-64 up to 6.14."""
    return profile.arch == "x86_64" and profile.version < (6, 15)


def _order(profile: Profile) -> tuple[str, ...]:
    """Sections in the order of ``vmlinux.lds``."""
    if profile.arch == "aarch64":
        return (".text", ".rodata", ".notes", ".init.text", ".init.data", ".data..percpu", ".data", ".bss")
    if _percpu_at_zero(profile):
        return (".text", ".rodata", ".notes", ".data", ".data..percpu", ".init.text", ".init.data", ".bss")
    return (".text", ".rodata", ".notes", ".data", ".init.text", ".init.data", ".data..percpu", ".bss")


def _align(profile: Profile, name: str) -> int:
    """Where a section begins: what has other permissions is in large pages of its own (STRICT_KERNEL_RWX)."""
    if name == ".notes":
        return 4
    if name in {".text", ".rodata", ".data"}:
        return 64 << 10 if profile.arch == "aarch64" else 2 << 20
    return 64 << 10 if profile.arch == "aarch64" else 4096


def _functions(profile: Profile) -> list[tuple[str, int, str, bool]]:
    """(name, size, file, static) of all functions, by file and name."""
    found = functions(profile)
    known = {name for name, *_ in found}
    found += [
        (each.name, _SIZE, each.file or _MAIN, each.static)
        for each in profile.prototypes
        if each.name not in known
    ]
    return sorted(found, key=lambda each: (each[2], each[0]))


@cache
def vmlinux(profile: Profile) -> Vmlinux:
    """The image of a kernel, made once for each."""
    return Vmlinux(profile)
