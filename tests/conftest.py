"""What tests share: the real vmcores, where they are to be had."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from hypothesis import settings

# What an example takes depends on what else the machine does. The same examples each time, so that it is a
# change that breaks a test; MMDUMP_EXPLORE=1 looks for others.
settings.register_profile("mmdump", deadline=None, derandomize="MMDUMP_EXPLORE" not in os.environ)
settings.load_profile("mmdump")

# What the tests share of the machines asserts too: say there what was found, as in the tests themselves.
pytest.register_assert_rewrite("tests.snapshots")

#: A directory of real vmcores. A user's machine does not have it: the tests that need one skip.
SAMPLES_VARIABLE = "MMDUMP_SAMPLE_VMCORES"
#: Where decompressed copies are kept between runs; a temporary directory by default.
CACHE_VARIABLE = "MMDUMP_TEST_CACHE"


@dataclass(frozen=True)
class Sample:
    """A real vmcore in two formats, its debug info beside it, and the kernel's own files of that moment."""

    source: Path
    directory: Path

    @property
    def elf(self) -> Path:
        return self.directory / "vmcore.elf"

    @property
    def kdump(self) -> Path:
        return self.directory / "vmcore.lzo-d31"

    @property
    def vmlinux(self) -> Path:
        return self.directory / "vmlinux.debug"

    def truth(self, name: str) -> bytes:
        """One of the kernel's own files."""
        with zstandard.open(self.source / "truth" / f"{name}.zst", "rb") as file:
            return file.read()


def _placed(source: Path, target: Path) -> None:
    """Put a file there, decompressed if its suffix is .zst, whole or not at all: others may do the same."""
    if target.exists():
        return
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    if source.suffix == ".zst":
        with zstandard.open(source, "rb") as file, part.open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 22)
    else:
        shutil.copy(source, part)
    part.rename(target)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The real vmcore of Linux 6.12 on x86-64."""
    samples = os.environ.get(SAMPLES_VARIABLE)
    if not samples:
        pytest.skip(f"{SAMPLES_VARIABLE} names no directory of real vmcores")
    source = Path(samples) / "linux-6.12-x86_64"
    cache = os.environ.get(CACHE_VARIABLE)
    if cache:
        stamp = (source / "vmcore.elf.zst").stat()
        key = hashlib.sha256(f"{source} {stamp.st_size} {stamp.st_mtime_ns}".encode()).hexdigest()[:16]
        directory = Path(cache) / f"sample-{key}"
        directory.mkdir(parents=True, exist_ok=True)
    else:
        directory = tmp_path_factory.mktemp("sample")
    found = Sample(source, directory)
    _placed(source / "vmcore.elf.zst", found.elf)
    _placed(source / "vmlinux.debug.zst", found.vmlinux)
    _placed(source / found.kdump.name, found.kdump)
    return found


@pytest.fixture(scope="session", params=["elf", "kdump"])
def dump(request: pytest.FixtureRequest, sample: Sample) -> Path:
    """The real vmcore as ELF and as a filtered kdump."""
    return sample.elf if request.param == "elf" else sample.kdump


@dataclass(frozen=True)
class Run:
    """What a run of the command line gave."""

    status: int
    out: str
    err: str


@pytest.fixture
def mmdump(tmp_path: Path) -> Callable[..., Run]:
    """Runs the installed command line in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None, **environment: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "mmdump", *map(str, arguments)],
            capture_output=True,
            check=False,
            cwd=cwd or tmp_path,
            env=os.environ | environment,
            timeout=300,
        )
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
