"""The catalogue: which kernels the test bed knows, and what each is made of."""

import platform
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRAGMENTS = HERE.parent / "fragments"
PATCHES = HERE.parent / "patches"

# What every guest has, beside page_ext and what its architecture needs.
_COMMON = ("testbed", "page-pinner-events", "cma", "thp", "page-reporting", "debug-info", "kdump")


@dataclass(frozen=True)
class Source:
    """A Debian source package of the kernel."""

    package: str
    """Its name; a pattern (linux-source-7.*) means the newest that there is."""
    suite: str
    """The Debian suite it is fetched from when it is not installed."""


@dataclass(frozen=True)
class Machine:
    """How QEMU runs a kernel."""

    qemu: str
    machine: str
    cpu: str
    console: str
    memory: int
    """MiB of memory with which it boots comfortably."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of the catalogue."""

    name: str
    source: Source
    arch: str
    """The kernel's name of the architecture (ARCH=): x86_64 or arm64."""
    fragments: tuple[str, ...]
    """Names in fragments/, without .config; a later one overrides an earlier one."""
    patches: tuple[str, ...]
    """Names in patches/, without .patch, in the order in which they are applied."""
    target: str
    """What make is asked for."""
    image: str
    """The file that makes, in the build tree: QEMU boots it."""
    page_size: int
    machine: Machine
    compiler: str
    """Prefix of the compiler and binutils (CROSS_COMPILE=) where this machine is of another architecture."""

    def fragment_files(self) -> list[Path]:
        """Return the fragments' paths."""
        return [FRAGMENTS / f"{name}.config" for name in self.fragments]

    def patch_files(self) -> list[Path]:
        """Return the patches' paths."""
        return [PATCHES / f"{name}.patch" for name in self.patches]


_6_1 = Source("linux-source-6.1", "bookworm")
_6_12 = Source("linux-source-6.12", "trixie")
_7_X = Source("linux-source-7.*", "sid")

_PC = Machine("qemu-system-x86_64", "q35", "max", "ttyS0", 1024)
# pauth-impdef: pointer authentication by a cheap function. QEMU's default one costs half of the time.
_VIRT = Machine("qemu-system-aarch64", "virt,gic-version=3", "max,pauth-impdef=on", "ttyAMA0", 1024)


def _x86_64(name: str, source: Source, patches: tuple[str, ...], page_ext: str = "page-ext") -> Kernel:
    return Kernel(
        name=name,
        source=source,
        arch="x86_64",
        fragments=(*_COMMON, "testbed-x86_64", page_ext),
        patches=patches,
        target="bzImage",
        image="arch/x86/boot/bzImage",
        page_size=4096,
        machine=_PC,
        compiler="x86_64-linux-gnu-",
    )


def _arm64(name: str, source: Source, patches: tuple[str, ...], page_size: int) -> Kernel:
    pages = ("testbed-arm64-16k",) if page_size == 16384 else ()
    return Kernel(
        name=name,
        source=source,
        arch="arm64",
        fragments=(*_COMMON, "testbed-arm64", *pages, "page-ext"),
        patches=patches,
        target="Image",
        image="arch/arm64/boot/Image",
        page_size=page_size,
        machine=_VIRT,
        compiler="aarch64-linux-gnu-",
    )


KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        _x86_64("6.12", _6_12, ("page-pinner-6.12",)),
        _x86_64("6.1", _6_1, ("page-pinner-6.1",)),
        _arm64("6.12-arm64", _6_12, ("page-pinner-6.12",), 4096),
        _x86_64("7.x", _7_X, ("page-pinner-7.2",)),
        _arm64("6.12-arm64-16k", _6_12, ("page-pinner-6.12",), 16384),
        _x86_64("6.12-nopageext", _6_12, ("page-pinner-6.12",), page_ext="no-page-ext"),
    )
}
"""All kernels, by name, the most useful first."""


def compiler_prefix(kernel: Kernel) -> str:
    """Return CROSS_COMPILE= for this machine: empty where the kernel is of its own architecture."""
    native = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine())
    return "" if native == kernel.arch else kernel.compiler
