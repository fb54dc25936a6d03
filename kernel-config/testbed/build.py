"""Build a kernel of the catalogue: fetch, unpack, patch, configure, check, make, collect.

A built kernel is a directory of the cache, named by a hash of everything that went into it:

    image vmlinux System.map config build.json
    tools/page_owner_sort tools/page-types        for this machine
    tools/guest/...                               the same for the guest, where it is of another architecture
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import cache
from .configuration import configure, fragment_digest, make_environment
from .errors import BuildError
from .kernels import KERNELS, Kernel, compiler_prefix
from .running import run_logged, run_step
from .sources import Log, Tarball, find_source, patch_digest, unpack

RECIPE = 1
"""Raised whenever this file builds something else from the same inputs."""

CONFIG_BASE = "allnoconfig"
"""What the fragments are merged onto: everything is off unless a fragment wants it."""

# What a build needs of the machine, and the Debian package it is in.
_PROGRAMS = {
    "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "patch": "patch", "perl": "perl",
    "tar": "tar", "xz": "xz-utils", "gzip": "gzip", "gcc": "gcc",
}  # fmt: skip
_HEADERS = {"gelf.h": "libelf-dev"}


@dataclass(frozen=True)
class BuiltKernel:
    """A built kernel in the cache."""

    path: Path

    @cached_property
    def info(self) -> dict[str, Any]:
        """What build.json says: name, arch, release, page_size, source, machine, seconds, inputs ..."""
        info: dict[str, Any] = json.loads((self.path / "build.json").read_text())
        return info

    @property
    def name(self) -> str:
        """The catalogue's name."""
        return str(self.info["name"])

    @property
    def arch(self) -> str:
        """x86_64 or arm64."""
        return str(self.info["arch"])

    @property
    def release(self) -> str:
        """What uname -r says in the guest."""
        return str(self.info["release"])

    @property
    def page_size(self) -> int:
        """Bytes in a page."""
        return int(self.info["page_size"])

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return self.path / "image"

    @property
    def vmlinux(self) -> Path:
        """The unstripped kernel, with its debug info."""
        return self.path / "vmlinux"

    @property
    def config(self) -> Path:
        """The whole configuration."""
        return self.path / "config"

    @property
    def system_map(self) -> Path:
        """Symbols and link-time addresses."""
        return self.path / "System.map"

    def tool(self, name: str) -> Path:
        """Return a tool of the kernel source, static, for this machine."""
        return self.path / "tools" / name

    def guest_tool(self, name: str) -> Path:
        """Return a tool of the kernel source, static, for the guest."""
        guest = self.path / "tools" / "guest" / name
        return guest if guest.exists() else self.tool(name)


# ---- building ----------------------------------------------------------------------------------------


def _compiler_version(kernel: Kernel) -> str:
    return run_step([f"{compiler_prefix(kernel)}gcc", "--version"], "Asking the compiler").splitlines()[0]


def preflight(kernel: Kernel) -> None:
    """Raise BuildError naming every Debian package that a build needs and this machine lacks."""
    missing = [package for program, package in _PROGRAMS.items() if not shutil.which(program)]
    prefix = compiler_prefix(kernel)
    if prefix and not shutil.which(f"{prefix}gcc"):
        missing.append(f"gcc-{prefix.rstrip('-').replace('x86_64', 'x86-64')}")
    if shutil.which("gcc"):
        for header, package in _HEADERS.items():
            probe = ["gcc", "-E", "-include", header, "-x", "c", os.devnull, "-o", os.devnull]
            if subprocess.run(probe, capture_output=True, check=False).returncode:
                missing.append(package)
    if missing:
        raise BuildError(f"building {kernel.name} needs: apt-get install {' '.join(missing)}")


def inputs_of(kernel: Kernel, tarball: Tarball, compiler: str) -> dict[str, Any]:
    """Return everything that decides what is built. No path and no time of this machine is in it."""
    return {
        "recipe": RECIPE,
        "name": kernel.name,
        "arch": kernel.arch,
        "target": kernel.target,
        "source": {"package": tarball.package, "version": tarball.version},
        "config_base": CONFIG_BASE,
        "fragments": {path.name: fragment_digest(path) for path in kernel.fragment_files()},
        "patches": {path.name: patch_digest(path) for path in kernel.patch_files()},
        "compiler": compiler,
    }


def hash_of(inputs: Mapping[str, Any]) -> str:
    """Return the name of a set of inputs: 12 hexadecimal digits."""
    # The order of fragments and patches counts, so that keys are not sorted.
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]


def find(name: str) -> BuiltKernel | None:
    """Return the newest kernel of that name in the cache as it is, current or not; None if there is none."""
    path = cache.cache_dir("kernels") / name
    return BuiltKernel(path.resolve()) if (path / "build.json").exists() else None


def build(kernel: Kernel, *, jobs: int | None = None, log: Log, refresh: bool = False) -> BuiltKernel:
    """Return the kernel as the fragments and patches now say, from the cache or built now.

    `jobs` is make's, all CPUs by default. `refresh` looks for a newer source package first. Raises
    BuildError with the step that failed and its last lines; the whole log is in the cache's logs/.
    """
    if not shutil.which("gcc") or not shutil.which(f"{compiler_prefix(kernel)}gcc"):
        preflight(kernel)
    tarball = find_source(kernel.source, log, refresh=refresh)
    inputs = inputs_of(kernel, tarball, _compiler_version(kernel))
    target = cache.cache_dir("kernels") / f"{kernel.name}-{hash_of(inputs)}"
    with cache.locked(target.name):
        if not (target / "build.json").exists():
            _build_into(kernel, tarball, inputs, target, jobs=jobs or os.cpu_count() or 1, log=log)
    cache.point(target.with_name(kernel.name), target)
    return BuiltKernel(target)


def _build_into(
    kernel: Kernel, tarball: Tarball, inputs: Mapping[str, Any], target: Path, *, jobs: int, log: Log
) -> None:
    preflight(kernel)
    tree = unpack(tarball, kernel.patch_files(), log)
    logfile = cache.cache_dir("logs") / f"{target.name}.log"
    logfile.unlink(missing_ok=True)
    work = cache.cache_dir("build") / target.name
    shutil.rmtree(work, ignore_errors=True)
    try:
        started, started_cpu = time.monotonic(), _cpu_seconds()
        configure(kernel, tree, work, logfile)
        log(f"building {kernel.name} ({tarball.package} {tarball.version}), log in {logfile}")
        make: list[str | Path] = ["make", "-s", "-C", tree, f"O={work}", f"-j{jobs}", kernel.target]
        run_logged(make, f"Building {kernel.name}", logfile, make_environment(kernel))
        seconds, cpu = round(time.monotonic() - started), round(_cpu_seconds() - started_cpu)
        with cache.published(target) as out:
            shutil.copyfile(work / kernel.image, out / "image")
            shutil.move(work / "vmlinux", out / "vmlinux")
            shutil.copyfile(work / "System.map", out / "System.map")
            shutil.copyfile(work / ".config", out / "config")
            _build_tools(kernel, tree, out / "tools")
            info = {
                "name": kernel.name,
                "arch": kernel.arch,
                "release": (work / "include/config/kernel.release").read_text().strip(),
                "page_size": kernel.page_size,
                "source": inputs["source"],
                "machine": vars(kernel.machine),
                "seconds": seconds,
                "cpu_seconds": cpu,
                "inputs": inputs,
            }
            (out / "build.json").write_text(json.dumps(info, indent=2) + "\n")
        log(f"built {kernel.name} in {seconds / 60:.1f} min ({cpu / 60:.1f} min of CPU)")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _cpu_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _build_tools(kernel: Kernel, tree: Path, out: Path) -> None:
    """Build the user tools that read the kernel's per-page files, static."""
    # tools/vm until 6.2, tools/mm since. They are compiled by hand: the Makefile builds into the source.
    place = next(path for path in (tree / "tools/mm", tree / "tools/vm") if path.exists())
    lib = tree / "tools/lib"
    helpers = [lib / "api/fs/fs.c", lib / "api/debug.c", lib / "str_error_r.c"]
    include = [f"-I{tree / 'tools/include'}", f"-I{lib}", f"-I{lib / 'api'}"]
    builds = [("", out)]
    tools: dict[str, list[Path]] = {"page_owner_sort": [], "page-types": helpers}
    if compiler_prefix(kernel):
        builds.append((compiler_prefix(kernel), out / "guest"))
    for prefix, directory in builds:
        directory.mkdir(parents=True)
        for name, sources in tools.items():
            words: list[str | Path] = [
                f"{prefix}gcc",
                "-w",
                "-O2",
                "-static",
                *include,
                place / f"{name}.c",
                *sources,
            ]
            run_step([*words, "-o", directory / name], f"Building {name}")


# ---- the command -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed build` understands."""
    parser.add_argument(
        "kernels", nargs="*", metavar="KERNEL", help=f"which (default: all of {', '.join(KERNELS)})"
    )
    parser.add_argument("-j", "--jobs", type=int, help="make's jobs (default: all CPUs)")
    parser.add_argument("--refresh", action="store_true", help="look for newer source packages first")
    parser.add_argument("--check", action="store_true", help="only configure, and check the configuration")


def check(kernel: Kernel, *, log: Log, refresh: bool = False) -> None:
    """Configure without building: seconds instead of minutes. Raises BuildError as `build` would."""
    preflight(kernel)
    tree = unpack(find_source(kernel.source, log, refresh=refresh), kernel.patch_files(), log)
    logfile = cache.cache_dir("logs") / f"{kernel.name}-check.log"
    logfile.unlink(missing_ok=True)
    work = cache.cache_dir("build") / f"{kernel.name}-check-{os.getpid()}"
    try:
        configure(kernel, tree, work, logfile)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main(args: argparse.Namespace) -> int:
    """Build what the arguments name, and print where each kernel is; the exit status."""
    for name in args.kernels or KERNELS:
        if name not in KERNELS:
            sys.stderr.write(f"testbed: no kernel named {name}; there are {', '.join(KERNELS)}\n")
            return 2
    status = 0
    for name in args.kernels or KERNELS:
        try:
            if args.check:
                check(KERNELS[name], log=_say, refresh=args.refresh)
                _say(f"the configuration of {name} is as wanted")
            else:
                built = build(KERNELS[name], jobs=args.jobs, log=_say, refresh=args.refresh)
                sys.stdout.write(f"{name}\t{built.release}\t{built.path}\n")
        except BuildError as error:
            sys.stderr.write(f"testbed: {name}: {error}\n")
            status = 1
    return status


def _say(text: str) -> None:
    sys.stderr.write(f"testbed: {text}\n")
    sys.stderr.flush()
