"""Where the test bed keeps what is expensive: sources, built kernels and logs, outside the checkout."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_root() -> Path:
    """Return the cache's directory, made if need be.

    MMDUMP_TESTBED_CACHE names it; without that it is mmdump-testbed in the user's cache directory.
    """
    named = os.environ.get("MMDUMP_TESTBED_CACHE")
    if named:
        root = Path(named).expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmdump-testbed"
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def cache_dir(name: str) -> Path:
    """Return a directory of the cache, made if need be: "kernels", "sources", "logs" ..."""
    path = cache_root() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name while the body runs, waiting for whoever has it.

    The kernel drops the lock with the process that held it, so that none outlives a crash.
    """
    with (cache_dir("locks") / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give an empty directory to fill, and rename it to `target` if the body succeeds.

    Whoever sees `target` sees all of it. On failure nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to its neighbour `target`, replacing an older one in one step."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)
