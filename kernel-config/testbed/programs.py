"""The programs inside a guest: the workload compiled, busybox, and Debian's kexec and makedumpfile."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import cache
from .errors import GuestError
from .initramfs import Archive
from .qemu import NATIVE
from .sources import private_apt

HERE = Path(__file__).resolve().parent
_PREFIX = {"x86_64": "x86_64-linux-gnu-", "arm64": "aarch64-linux-gnu-"}
_DEBIAN = {"x86_64": "amd64", "arm64": "arm64"}
_CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-static")
_LIBRARY_DIRECTORIES = ("lib", "usr/lib", "lib64", "usr/lib64")


def _run(words: list[str], step: str, *, timeout: float = 300) -> str:
    try:
        done = subprocess.run(  # the commands are this file's own
            words, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
    except OSError as error:
        raise GuestError(f"{step}: {words[0]}: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"{step} took more than {timeout:.0f} s.") from error
    if done.returncode:
        raise GuestError(f"{step} failed: {done.stderr.strip()[-1000:] or done.stdout.strip()[-1000:]}")
    return done.stdout


def compiler(arch: str) -> str:
    """Return the C compiler for an architecture. Raises GuestError naming the Debian package."""
    name = "gcc" if arch == NATIVE else f"{_PREFIX[arch]}gcc"
    if not shutil.which(name):
        package = "gcc" if arch == NATIVE else f"gcc-{_PREFIX[arch].rstrip('-').replace('_', '-')}"
        raise GuestError(f"{name} is not installed: apt-get install {package}.")
    return name


def workload(arch: str) -> Path:
    """Return the static workload for an architecture, compiled once for each state of its source."""
    program = compiler(arch)
    sources = sorted((HERE / "workload").glob("*.[ch]"))
    digest = hashlib.sha256(" ".join((program, *_CFLAGS)).encode())
    for path in sources:
        digest.update(path.read_bytes())
    target = cache.cache_dir("workload") / f"{arch}-{digest.hexdigest()[:12]}"
    with cache.locked(target.name):
        if not (target / "work").exists():
            files = [str(path) for path in sources if path.suffix == ".c"]
            with cache.published(target) as out:
                _run([program, *_CFLAGS, "-o", str(out / "work"), *files], "Compiling the workload")
    return target / "work"


# ---- programs of Debian ------------------------------------------------------------------------------


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise GuestError("/etc/os-release names no Debian suite to fetch programs for the guest from.")


@functools.cache
def debian_root(arch: str) -> Path:
    """Return a directory with what the guest needs of Debian for an architecture, fetched once.

    Nothing is installed on this machine, and its package lists are left alone.
    """
    suite = _codename()
    target = cache.cache_dir("debian") / f"{suite}-{arch}"
    with cache.locked(target.name):
        if not target.exists():
            with cache.published(target) as out:
                _fetch(suite, arch, out)
    return target


def _fetch(suite: str, arch: str, out: Path) -> None:
    state = cache.cache_dir("apt") / f"{suite}-{arch}"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    debian = _DEBIAN[arch]
    options = [
        *private_apt(suite),
        "-o", f"Dir::State={state / 'state'}", "-o", f"Dir::Cache={state / 'cache'}",
        "-o", f"APT::Architecture={debian}", "-o", f"APT::Architectures={debian}",
    ]  # fmt: skip
    _run(["apt-get", *options, "-qq", "update"], f"Reading the package lists of Debian {suite} {debian}")
    install = ["install", "-y", "--no-install-recommends", "--download-only"]
    packages = ["busybox-static", "kexec-tools", "makedumpfile"]
    _run(["apt-get", *options, "-qq", *install, *packages], f"Downloading programs for {debian}", timeout=900)
    for package in sorted((state / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(out)], f"Unpacking {package.name}")


def find_program(name: str, arch: str) -> tuple[Path, Path]:
    """Return a Debian program for the guest, and the root directory that its libraries are in."""
    if arch == NATIVE:
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path and (name != "busybox" or not needed(Path(path))[1]):
            return Path(path), Path("/")
    root = debian_root(arch)
    for place in ("bin", "sbin", "usr/bin", "usr/sbin"):
        if (root / place / name).exists():
            return root / place / name, root
    raise GuestError(f"Debian's packages for {arch} have no program {name}.")


def needed(program: Path) -> tuple[list[str], str | None]:
    """Return the libraries that an ELF file names, and its interpreter (None: it is static)."""
    text = _run(["readelf", "-d", "-l", str(program)], f"Reading {program}")
    interpreter = re.search(r"interpreter: ([^\]]+)\]", text)
    return re.findall(r"\(NEEDED\)[^\[]*\[([^\]]+)\]", text), interpreter[1] if interpreter else None


def add_program(archive: Archive, name: str, arch: str) -> None:
    """Put a program into /bin of an initramfs, and the libraries it needs where its loader looks."""
    path, root = find_program(name, arch)
    archive.copy(f"bin/{name}", path)
    libraries, interpreter = needed(path)
    if interpreter:
        archive.copy(interpreter, _resolve(root, interpreter))
    waiting = list(libraries)
    while waiting:
        library = waiting.pop()
        if f"lib/{library}" in archive:
            continue
        source = _find_library(root, library, arch)
        archive.copy(f"lib/{library}", source)
        waiting += needed(source)[0]


def _resolve(root: Path, path: str) -> Path:
    """Return a file below a root whose absolute symbolic links count from that root."""
    found = root / path.lstrip("/")
    for _ in range(8):
        if not found.is_symlink():
            break
        target = found.readlink()
        found = root / str(target).lstrip("/") if target.is_absolute() else found.parent / target
    return found


def _find_library(root: Path, library: str, arch: str) -> Path:
    triplet = _PREFIX[arch].rstrip("-")
    for directory in _LIBRARY_DIRECTORIES:
        for place in (f"{directory}/{triplet}", directory):
            found = _resolve(root, f"{place}/{library}")
            if found.exists():
                return found
    raise GuestError(f"the library {library} for {arch} is not below {root}.")


# ---- the initramfs -----------------------------------------------------------------------------------


def initramfs(arch: str, *, with_kexec: bool = False) -> Path:
    """Return the initramfs of guests: busybox, workload and scripts; for crashes kexec and makedumpfile."""
    archive = Archive()
    for directory in ("bin", "dev", "lib", "proc", "sys", "share", "data", "testbed"):
        archive.directory(directory)
    # The kernel opens it for /init.
    archive.character_device("dev/console", 5, 1)
    archive.copy("bin/busybox", find_program("busybox", arch)[0])
    archive.copy("bin/work", workload(arch))
    archive.copy("init", HERE / "init/init.sh")
    for path in sorted((HERE / "init").glob("*")):
        if path.name != "init.sh":
            archive.copy(f"testbed/{path.name}", path, 0o644)
    if with_kexec:
        # Libraries are in /lib, which every Debian loader searches.
        for name in ("kexec", "makedumpfile"):
            add_program(archive, name, arch)
    content = archive.cpio()
    target = cache.cache_dir("initramfs") / f"{arch}-{hashlib.sha256(content).hexdigest()[:12]}.cpio"
    if not target.exists():
        fresh = target.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(content)
        fresh.replace(target)
    return target
