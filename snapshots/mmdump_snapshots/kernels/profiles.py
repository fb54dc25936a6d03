"""The kernels that a snapshot can be of: release, architecture, configuration; and their declarations."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable

from mmdump_snapshots.kernels.cdecl import Declarations, Prototype, Variable, parse
from mmdump_snapshots.kernels.preprocess import Preprocessor, Value
from mmdump_snapshots.kernels.types import Types
from mmdump_snapshots.model.era import Era, Pinner

__all__ = ["Profile", "profile", "profiles"]

#: Headers that others build on, in this order; then the rest by name, then those in ``variables/``.
_FIRST = ("types.h", "page_flags.h", "mm_types.h", "mmzone.h")

#: What every profile has: the configuration of a server's kernel, with page_owner and the RFC's page pinner.
_COMMON = frozenset(
    f"CONFIG_{name}"
    for name in (
        *("64BIT", "SMP", "MMU", "NUMA", "SWAP", "SHMEM", "MEMCG", "IOMMU_SUPPORT", "JUMP_LABEL"),
        "BLK_CGROUP",
        *("VM_EVENT_COUNTERS", "SLUB_DEBUG", "SLUB_CPU_PARTIAL", "STACKPROTECTOR", "ZONE_DMA", "ZONE_DMA32"),
        *("MODULES", "PERF_EVENTS", "STACKTRACE", "TRACING"),
        *("BSD_PROCESS_ACCT", "DEBUG_STACK_USAGE", "FS_POSIX_ACL", "SECURITY"),
        *("SPARSEMEM", "SPARSEMEM_EXTREME", "SPARSEMEM_VMEMMAP", "MEMORY_HOTPLUG", "MEMORY_FAILURE"),
        *("MIGRATION", "COMPACTION", "CMA", "CMA_DEBUGFS", "MEMORY_ISOLATION", "MEMORY_BALLOON"),
        *("TRANSPARENT_HUGEPAGE", "HUGETLBFS", "HUGETLB_PAGE", "IDLE_PAGE_TRACKING", "PAGE_IDLE_FLAG"),
        *("PAGE_EXTENSION", "PAGE_OWNER", "PAGE_PINNER", "STACKDEPOT", "DEBUG_PAGEALLOC"),
    )
)

#: Options by the release that has them: they are on from there.
_SINCE = {
    "CONFIG_READ_ONLY_THP_FOR_FS": (5, 4),
    "CONFIG_BLK_CGROUP_IOCOST": (5, 4),
    "CONFIG_PAGE_REPORTING": (5, 7),
    "CONFIG_CMA_SYSFS": (5, 13),
    "CONFIG_PAGE_TABLE_CHECK": (5, 17),
    "CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP": (5, 18),
    "CONFIG_MEM_ALLOC_PROFILING": (6, 10),
    "CONFIG_ARCH_USES_PG_ARCH_2": (6, 12),
    "CONFIG_MM_ID": (6, 15),
}


@dataclass(frozen=True)
class Profile:
    """A kernel: everything that a snapshot of it needs to know of its structures.

    :ivar name: ``6.12-arm64``.
    :ivar version: (major, minor).
    :ivar arch: ``x86_64`` or ``aarch64``.
    :ivar page_shift: log2 of the page size in bytes.
    :ivar config: Configuration: names (``CONFIG_CMA``), and names with a number (``CONFIG_NODES_SHIFT=6``).
    :ivar pinner: The page pinner it was patched with.
    """

    name: str
    version: tuple[int, int]
    arch: str
    page_shift: int
    config: frozenset[str]
    pinner: Pinner = Pinner.RFC

    @property
    def page_size(self) -> int:
        """Bytes."""
        return 1 << self.page_shift

    @cached_property
    def era(self) -> Era:
        """The same kernel as the model knows it."""
        return Era(self.version, self.page_shift, self.pinner)

    @property
    def declarations(self) -> Declarations:
        """All that the headers in ``include/`` declare of this kernel."""
        return _declarations(self.version, self.arch, self.page_shift, self.config, self.pinner)

    @property
    def types(self) -> Types:
        """Its types and constants."""
        return self.declarations.types

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that analyses and drgn's helpers look up."""
        return self.declarations.variables

    @property
    def prototypes(self) -> tuple[Prototype, ...]:
        """Functions whose parameters tell something; all functions are in ``kernels/functions.py``."""
        return self.declarations.prototypes

    def has(self, config: str) -> bool:
        """Whether ``CONFIG_...`` is on."""
        return config in self.config or any(each.startswith(config + "=") for each in self.config)

    def number(self, config: str) -> int:
        """The number that a configuration option has. :raises KeyError: It has none."""
        for each in self.config:
            name, _, value = each.partition("=")
            if name == config and value:
                return int(value, 0)
        raise KeyError(config)

    def with_config(self, *on: str, without: tuple[str, ...] = ()) -> Profile:
        """The same kernel, configured otherwise.

        :param on: ``CONFIG_X``, or ``CONFIG_X=number`` in place of another number.
        :param without: ``CONFIG_X`` to switch off.
        """
        gone = {each.partition("=")[0] for each in (*on, *without)}
        kept = {each for each in self.config if each.partition("=")[0] not in gone}
        return replace(self, config=frozenset(kept | set(on)))

    def with_pinner(self, pinner: Pinner) -> Profile:
        """The same kernel with another page pinner; with one of Android's it becomes Android's kernel."""
        return replace(self, pinner=pinner)

    def configured(self, text: str) -> Profile:
        """The same kernel, configured by a ``.config``; modules count as off.

        :param text: Lines ``CONFIG_X=y`` and ``CONFIG_X=number``; others are passed over.
        """
        config = set()
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name.startswith("CONFIG_") and value == "y":
                config.add(name)
            elif name.startswith("CONFIG_") and re.fullmatch(r"\d+|0x[0-9a-fA-F]+", value):
                config.add(line)
        return replace(self, config=frozenset(config))


def _headers() -> list[tuple[str, str]]:
    """(name, text) of every header, in the order in which they are read."""
    include = files("mmdump_snapshots.kernels") / "include"

    def in_order(directory: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
        found = [(prefix + each.name, each) for each in directory.iterdir()]
        plain = sorted((name, each) for name, each in found if each.is_file() and name.endswith(".h"))
        plain.sort(key=lambda pair: _FIRST.index(pair[0]) if pair[0] in _FIRST else len(_FIRST))
        for name, each in sorted(found, key=lambda pair: pair[0]):
            if each.is_dir():
                plain += in_order(each, f"{name}/")
        return plain

    return [(name, each.read_text(encoding="utf-8")) for name, each in in_order(include)]


@cache
def _declarations(
    version: tuple[int, int], arch: str, page_shift: int, config: frozenset[str], pinner: Pinner
) -> Declarations:
    values: dict[str, Value] = {
        "KERNEL": version,
        "PAGE_SHIFT": page_shift,
        "ARM64" if arch == "aarch64" else "X86_64": 1,
        "PINNER": int(pinner),
    }
    values |= {f"PINNER_{each.name}": int(each) for each in Pinner}
    for each in config:
        name, _, value = each.partition("=")
        values[name] = int(value, 0) if value else 1
    preprocessor = Preprocessor(values)
    text = "".join(f'# 1 "{name}"\n{preprocessor.run(text, name)}\n' for name, text in _headers())
    # Built with -funsigned-char since 6.2; before, as the architecture has it.
    signed_char = arch == "x86_64" and version < (6, 2)
    return parse(text, arch=arch, signed_char=signed_char, macros=preprocessor.macros)


def _config(version: tuple[int, int], arch: str) -> frozenset[str]:
    config = _COMMON | {name for name, release in _SINCE.items() if version >= release}
    if arch == "aarch64":
        config |= {"CONFIG_ARM64", "CONFIG_NODES_SHIFT=4", "CONFIG_NR_CPUS=512", "CONFIG_ARCH_USES_PG_ARCH_3"}
    else:
        config |= {"CONFIG_X86", "CONFIG_X86_64", "CONFIG_HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD"}
        config |= {"CONFIG_NODES_SHIFT=6", "CONFIG_NR_CPUS=64"}
        config |= {"CONFIG_ARCH_USES_PG_UNCACHED"} if version < (6, 12) else set()
    # The defaults: NUMA machines got 19 (5.10), that became 20 when the array lost its extra element (6.9).
    return config | {f"CONFIG_CMA_AREAS={7 if version < (5, 10) else 19 if version < (6, 9) else 20}"}


@cache
def profiles() -> dict[str, Profile]:
    """All kernels by name, oldest first; x86-64 where the name says nothing."""
    found = {}
    for release in ("4.19", "5.4", "5.10", "5.15", "6.1", "6.6", "6.12", "6.18", "7.1"):
        found[release] = _profile(release)
    for release in ("6.12-arm64", "6.12-arm64-16k"):
        found[release] = _profile(release)
    for name, pinner in _ANDROID.items():
        found[name] = replace(_profile(name.partition("-")[2]), name=name, pinner=pinner)
    return found


#: Android's common kernels, as far as they differ: the page pinner, and the order of migratetypes.
_ANDROID = {
    "android12-5.10": Pinner.A2,
    "android13-5.10": Pinner.B1,
    "android14-6.1": Pinner.B2,
    "android14-6.1-arm64": Pinner.B2,
}


def _profile(name: str) -> Profile:
    release, _, sort = name.partition("-")
    major, minor = release.split(".")
    version = int(major), int(minor)
    arch = "aarch64" if sort else "x86_64"
    return Profile(name, version, arch, 14 if sort.endswith("16k") else 12, _config(version, arch))


@cache
def profile(name: str) -> Profile:
    """A kernel by name.

    :raises KeyError: There is none.
    """
    # 7.2 is not offered: it is there to be compared with a real one.
    return _profile(name) if name == "7.2" else profiles()[name]
