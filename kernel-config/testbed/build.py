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
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import cache
from .kernels import KERNELS, Kernel, Source

Log = Callable[[str], None]

RECIPE = 1
"""Raised whenever this file builds something else from the same inputs."""

CONFIG_BASE = "allnoconfig"
"""What the fragments are merged onto: everything is off unless a fragment wants it."""

INSTALLED = Path("/usr/src")

# What a build needs of the machine, and the Debian package it is in.
_PROGRAMS = {
    "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "patch": "patch", "perl": "perl",
    "tar": "tar", "xz": "xz-utils", "gzip": "gzip", "gcc": "gcc",
}  # fmt: skip
_HEADERS = {"gelf.h": "libelf-dev"}


class BuildError(Exception):
    """A kernel could not be built. The message says which step failed, and ends with its last words."""


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


# ---- running things ----------------------------------------------------------------------------------


def _run(
    command: Sequence[str | Path], step: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it printed; its failure is a BuildError with its last lines."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{step}: {command[0]}: {error.strerror}") from error
    if done.returncode:
        raise BuildError(f"{step} failed (exit status {done.returncode}):\n{_tail(done.stdout)}")
    return done.stdout


def _run_logged(command: Sequence[str | Path], step: str, logfile: Path, env: Mapping[str, str]) -> None:
    """Run a command with its output appended to a file, which its failure names and quotes."""
    with logfile.open("a") as out:
        out.write(f"\n== {step}: {' '.join(str(word) for word in command)}\n")
        out.flush()
        status = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, "LC_ALL": "C", **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status:
        raise BuildError(
            f"{step} failed (exit status {status}), see {logfile}:\n"
            + _tail(logfile.read_text(errors="replace"))
        )


def _tail(text: str, lines: int = 25) -> str:
    # The first error often stands far above the last line when make runs jobs in parallel.
    every = text.rstrip().splitlines()
    errors = [line for line in every[:-lines] if re.search(r"\berror:|\*\*\*|undefined reference", line)]
    return "\n".join(f"    {line}" for line in [*errors[:10], *every[-lines:]])


def compiler_prefix(kernel: Kernel) -> str:
    """Return CROSS_COMPILE= for this machine: empty where the kernel is of its own architecture."""
    native = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine())
    return "" if native == kernel.arch else kernel.compiler


def _compiler_version(kernel: Kernel) -> str:
    return _run([f"{compiler_prefix(kernel)}gcc", "--version"], "Asking the compiler").splitlines()[0]


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


# ---- sources -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tarball:
    """A kernel source that is at hand."""

    package: str
    version: str
    path: Path


def _apt_mirror() -> str:
    """Return the Debian archive that this machine's apt uses."""
    targets = _run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
        "Asking apt for its archives",
    )
    for line in targets.splitlines():
        origin, label, uri = line.split("|", 2)
        # Not the security archive, whose label is Debian-Security.
        if (origin, label) == ("Debian", "Debian"):
            return uri
    raise BuildError("apt knows no Debian archive here: run apt-get update, or install the source package")


def private_apt(suite: str) -> list[str]:
    """Return options with which apt sees that one suite, and neither reads nor writes the system's state."""
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    root = cache.cache_dir("apt") / suite
    for part in ("state/lists/partial", "cache/archives/partial"):
        (root / part).mkdir(parents=True, exist_ok=True)
    sources = root / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: {_apt_mirror()}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
    )
    settings = {
        "Dir::Etc::sourcelist": str(sources),
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": str(root / "state"),
        "Dir::State::status": os.devnull,
        "Dir::Cache": str(root / "cache"),
        "Acquire::Languages": "none",
        # As root, apt would download as a user who cannot write here.
        "APT::Sandbox::User": "",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _version_key(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _newest_name(names: Iterable[str], pattern: str) -> str | None:
    """Return the newest package of those that match "linux-source-7.*" (or equal it), None if none does."""
    wanted = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    return max((name for name in names if wanted.fullmatch(name)), key=_version_key, default=None)


def _installed(source: Source) -> Tarball | None:
    names = [path.name.removesuffix(".tar.xz") for path in INSTALLED.glob("linux-source-*.tar.xz")]
    package = _newest_name(names, source.package)
    if package is None or not shutil.which("dpkg-query"):
        return None
    try:
        version = _run(["dpkg-query", "-W", "-f", "${Version}", package], "Asking dpkg")
    except BuildError:
        return None  # a tarball that no package put there
    return Tarball(package, version, INSTALLED / f"{package}.tar.xz")


def _downloaded(source: Source) -> Tarball | None:
    found = [path.name.removesuffix(".tar.xz").split("_", 1) for path in _downloads().glob("*_*.tar.xz")]
    package = _newest_name([name for name, _ in found], source.package)
    if package is None:
        return None
    version = max((version for name, version in found if name == package), key=_version_key)
    return Tarball(package, version, _downloads() / f"{package}_{version}.tar.xz")


def _downloads() -> Path:
    return cache.cache_dir("downloads")


def _download(source: Source, log: Log) -> Tarball:
    """Fetch the newest source package of its suite with apt, which checks its signature; install nothing."""
    if not shutil.which("apt-get"):
        raise BuildError(f"no {source.package} in {INSTALLED}, and no apt-get to fetch it with")
    log(f"looking for {source.package} in Debian {source.suite}")
    options = private_apt(source.suite)
    _run(["apt-get", *options, "-qq", "update"], f"Reading the package list of Debian {source.suite}")
    names = _run(["apt-cache", *options, "pkgnames", "linux-source-"], "Asking apt").split()
    package = _newest_name(names, source.package)
    if package is None:
        raise BuildError(f"Debian {source.suite} has no {source.package} now (it has {' '.join(names)})")
    shown = _run(["apt-cache", *options, "show", "--no-all-versions", package], "Asking apt")
    version = next(line.split()[1] for line in shown.splitlines() if line.startswith("Version:"))
    target = _downloads() / f"{package}_{version}.tar.xz"
    if not target.exists():
        log(f"downloading {package} {version}")
        with cache.published(_downloads() / "unpacking") as work:
            _run(["apt-get", *options, "-qq", "download", package], f"Downloading {package}", cwd=work)
            (deb,) = work.glob("*.deb")
            _run(["dpkg-deb", "-x", deb, work / "root"], f"Unpacking {deb.name}")
            (work / "root/usr/src" / f"{package}.tar.xz").rename(target)
        shutil.rmtree(_downloads() / "unpacking")
    return Tarball(package, version, target)


def find_source(source: Source, log: Log, *, refresh: bool = False) -> Tarball:
    """Return the kernel source: installed in /usr/src, else fetched before, else fetched now.

    `refresh` asks the archive for a newer one even if one was fetched before.
    """
    with cache.locked("downloads"):
        at_hand = _installed(source) or (None if refresh else _downloaded(source))
        return at_hand or _download(source, log)


def unpack(tarball: Tarball, patches: list[Path], log: Log) -> Path:
    """Return the directory of the patched source, unpacked into the cache once."""
    digest = hashlib.sha256("".join(map(patch_digest, patches)).encode()).hexdigest()[:8]
    tree = cache.cache_dir("sources") / f"{tarball.package}_{tarball.version}-{digest}"
    with cache.locked(tree.name):
        if not tree.exists():
            log(f"unpacking {tarball.path.name} {tarball.version}")
            with cache.published(tree) as work:
                _run(["tar", "-xf", tarball.path, "-C", work, "--strip-components=1"], "Unpacking the source")
                for patch in patches:
                    apply_patch(patch, work)
    return tree


def apply_patch(patch: Path, tree: Path, *, dry_run: bool = False) -> None:
    """Apply a patch exactly (no fuzz), or only say whether it would apply."""
    words: list[str | Path] = [
        "patch",
        "-p1",
        "--fuzz=0",
        "--forward",
        "--batch",
        "--reject-file=-",
        "-i",
        patch,
    ]
    _run([*words, *(["--dry-run"] if dry_run else [])], f"Applying {patch.name}", cwd=tree)


# ---- configuration -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One line of a fragment."""

    symbol: str
    value: str
    """As in .config; "n" for "is not set"."""
    optional: bool
    """Marked "#?": not an error where the kernel's Kconfig does not know the symbol."""
    reason: str
    where: str
    """File and line, for messages."""


_SET = re.compile(r"(CONFIG_\w+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")


def parse_fragment(text: str, name: str) -> list[Setting]:
    """Read a fragment. Raises BuildError for a line that is neither a setting nor a comment."""
    settings = []
    comment: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        setting = _SET.fullmatch(line)
        unset = _UNSET.fullmatch(line)
        if setting or unset:
            symbol, value = (setting[1], setting[2]) if setting else (str(unset and unset[1]), "n")
            optional = any(part.startswith("#?") for part in comment)
            reason = " ".join(part.lstrip("#? ") for part in comment)
            settings.append(Setting(symbol, value, optional, reason, f"{name}:{number}"))
            comment = []
        elif line.startswith("#"):
            comment.append(line)
        elif line:
            raise BuildError(f"{name}:{number}: not a setting: {line}")
        else:
            comment = []
    return settings


def parse_config(text: str) -> dict[str, str]:
    """Return the symbols that a .config sets; those that it does not mention or unsets are left out."""
    return {match[1]: match[2] for match in map(_SET.fullmatch, text.splitlines()) if match}


def known_symbols(tree: Path, arch: str) -> set[str]:
    """Return every symbol that the source's Kconfig files define for that architecture, with CONFIG_."""
    source_arch = {"x86_64": "x86"}.get(arch, arch)
    defines = re.compile(r"^\s*(?:menu)?config\s+(\w+)\s*$", re.MULTILINE)
    return {
        f"CONFIG_{name}"
        for path in _kconfig_files(tree, source_arch)
        for name in defines.findall(path.read_text(errors="replace"))
    }


def _kconfig_files(tree: Path, source_arch: str) -> Iterator[Path]:
    skipped = {"Documentation", "tools", "samples", ".git"}
    for top in sorted(tree.iterdir()):
        if top.name == "arch":
            yield from top.glob("Kconfig*")
            yield from (top / source_arch).rglob("Kconfig*")
        elif top.is_dir() and top.name not in skipped:
            yield from top.rglob("Kconfig*")
        elif top.name.startswith("Kconfig"):
            yield top


def check_config(wanted: Iterable[Setting], config: Mapping[str, str], known: set[str]) -> list[str]:
    """Return what is wrong with a configuration, one line for each setting that is not as wanted.

    Of several settings of one symbol the last counts. Kconfig drops silently what it does not know and
    what has unmet dependencies: here both are said.
    """
    last = {setting.symbol: setting for setting in wanted}
    wrong = []
    for setting in last.values():
        have = config.get(setting.symbol, "n")
        if have == setting.value:
            continue
        if setting.symbol in known:
            wrong.append(f"{setting.where}: {setting.symbol} is {have}, wanted {setting.value}")
        elif not setting.optional:
            wrong.append(f"{setting.where}: {setting.symbol} does not exist in this kernel")
    return wrong


def _wanted(fragments: list[Path]) -> list[Setting]:
    return [
        setting
        for path in fragments
        for setting in parse_fragment(path.read_text(), f"fragments/{path.name}")
    ]


def _make_environment(kernel: Kernel) -> dict[str, str]:
    # Nothing of this machine or moment goes into the kernel: the same inputs give the same build.
    return {
        "ARCH": kernel.arch,
        "CROSS_COMPILE": compiler_prefix(kernel),
        "KBUILD_BUILD_USER": "mmdump",
        "KBUILD_BUILD_HOST": "testbed",
        "KBUILD_BUILD_TIMESTAMP": "@0",
        "KBUILD_BUILD_VERSION": "1",
        # Set but empty: no "+" for a tree that git knows.
        "LOCALVERSION": "",
    }


def configure(kernel: Kernel, tree: Path, build: Path, logfile: Path) -> None:
    """Make build/.config from the fragments, and raise BuildError if one of their lines is not in it."""
    build.mkdir(parents=True, exist_ok=True)
    environment = _make_environment(kernel)
    # merge_config.sh runs make where it is started.
    merge: list[str | Path] = ["env", "-C", tree, "scripts/kconfig/merge_config.sh", "-n", "-O", build]
    _run_logged([*merge, *kernel.fragment_files()], f"Configuring {kernel.name}", logfile, environment)
    config = parse_config((build / ".config").read_text())
    wrong = check_config(_wanted(kernel.fragment_files()), config, known_symbols(tree, kernel.arch))
    if wrong:
        lines = "".join(f"\n    {line}" for line in wrong)
        raise BuildError(f"the configuration of {kernel.name} is not what the fragments want:{lines}")


# ---- building ----------------------------------------------------------------------------------------


def _fragment_digest(path: Path) -> str:
    # What it sets, in its order: a better comment must not cost a build.
    settings = [(setting.symbol, setting.value) for setting in parse_fragment(path.read_text(), path.name)]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def patch_digest(path: Path) -> str:
    """Return the hash of what a patch changes: its text from the first diff on."""
    text = path.read_text()
    return hashlib.sha256(text[max(text.find("diff --git "), 0) :].encode()).hexdigest()


def inputs_of(kernel: Kernel, tarball: Tarball, compiler: str) -> dict[str, Any]:
    """Return everything that decides what is built. No path and no time of this machine is in it."""
    return {
        "recipe": RECIPE,
        "name": kernel.name,
        "arch": kernel.arch,
        "target": kernel.target,
        "source": {"package": tarball.package, "version": tarball.version},
        "config_base": CONFIG_BASE,
        "fragments": {path.name: _fragment_digest(path) for path in kernel.fragment_files()},
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
        _run_logged(make, f"Building {kernel.name}", logfile, _make_environment(kernel))
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
            _run([*words, "-o", directory / name], f"Building {name}")


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
