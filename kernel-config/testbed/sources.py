"""Kernel sources: Debian's packages, installed or fetched, unpacked and patched."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .errors import BuildError
from .kernels import Source
from .running import run_step

__all__ = ["Log", "Tarball", "apply_patch", "find_source", "patch_digest", "private_apt", "unpack"]

Log = Callable[[str], None]

INSTALLED = Path("/usr/src")


@dataclass(frozen=True)
class Tarball:
    """A kernel source that is at hand."""

    package: str
    version: str
    path: Path


def _apt_mirror() -> str:
    """Return the Debian archive that this machine's apt uses."""
    targets = run_step(
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
        version = run_step(["dpkg-query", "-W", "-f", "${Version}", package], "Asking dpkg")
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
    run_step(["apt-get", *options, "-qq", "update"], f"Reading the package list of Debian {source.suite}")
    names = run_step(["apt-cache", *options, "pkgnames", "linux-source-"], "Asking apt").split()
    package = _newest_name(names, source.package)
    if package is None:
        raise BuildError(f"Debian {source.suite} has no {source.package} now (it has {' '.join(names)})")
    shown = run_step(["apt-cache", *options, "show", "--no-all-versions", package], "Asking apt")
    version = next(line.split()[1] for line in shown.splitlines() if line.startswith("Version:"))
    target = _downloads() / f"{package}_{version}.tar.xz"
    if not target.exists():
        log(f"downloading {package} {version}")
        with cache.published(_downloads() / "unpacking") as work:
            run_step(["apt-get", *options, "-qq", "download", package], f"Downloading {package}", cwd=work)
            (deb,) = work.glob("*.deb")
            run_step(["dpkg-deb", "-x", deb, work / "root"], f"Unpacking {deb.name}")
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
                run_step(
                    ["tar", "-xf", tarball.path, "-C", work, "--strip-components=1"], "Unpacking the source"
                )
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
    run_step([*words, *(["--dry-run"] if dry_run else [])], f"Applying {patch.name}", cwd=tree)


def patch_digest(path: Path) -> str:
    """Return the hash of what a patch changes: its text from the first diff on."""
    text = path.read_text()
    return hashlib.sha256(text[max(text.find("diff --git "), 0) :].encode()).hexdigest()
