"""A kernel's configuration: fragments merged, and every line of them found in the result."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError
from .kernels import Kernel, compiler_prefix
from .running import run_logged

__all__ = [
    "Setting",
    "check_config",
    "configure",
    "fragment_digest",
    "known_symbols",
    "make_environment",
    "parse_config",
    "parse_fragment",
]


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


def make_environment(kernel: Kernel) -> dict[str, str]:
    """Return make's variables."""
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
    environment = make_environment(kernel)
    # merge_config.sh runs make where it is started.
    merge: list[str | Path] = ["env", "-C", tree, "scripts/kconfig/merge_config.sh", "-n", "-O", build]
    run_logged([*merge, *kernel.fragment_files()], f"Configuring {kernel.name}", logfile, environment)
    config = parse_config((build / ".config").read_text())
    wrong = check_config(_wanted(kernel.fragment_files()), config, known_symbols(tree, kernel.arch))
    if wrong:
        lines = "".join(f"\n    {line}" for line in wrong)
        raise BuildError(f"the configuration of {kernel.name} is not what the fragments want:{lines}")


def fragment_digest(path: Path) -> str:
    """Return the hash of what a fragment sets."""
    # What it sets, in its order: a better comment must not cost a build.
    settings = [(setting.symbol, setting.value) for setting in parse_fragment(path.read_text(), path.name)]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
