"""makedumpfile's dumps of a run's ELF dump: on this machine, or in a guest where the architecture differs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import dump, programs, qemu
from .build import BuiltKernel
from .errors import GuestError
from .guest import Guest

GUEST_MEMORY = 512
"""MiB of the guest that makedumpfile runs in."""

GUEST_SECONDS = 600

Log = Callable[[str], None]


def filtered(
    kernel: BuiltKernel, directory: Path, names: tuple[str, ...], accel: str, log: Log
) -> dict[str, Any]:
    """Make the dumps of these names (in dump.FILTERS) of vmcore.elf; return what run.json says of each."""
    if not names:
        return {}
    if kernel.arch == qemu.NATIVE:
        made = {name: _here(directory, name, log) for name in names}
    else:
        made = _in_guest(kernel, directory, names, accel, log)
    records = {}
    for name, seconds in made.items():
        path = directory / f"vmcore.{name}"
        if seconds is None or not path.exists():
            continue
        words = " ".join(dump.FILTERS[name])
        records[path.name] = {"format": words, "by": "makedumpfile", "seconds": round(seconds, 1)}
        log(f"{path.name}: {path.stat().st_size >> 20} MiB in {seconds:.0f} s")
    return records


def _here(directory: Path, name: str, log: Log) -> float | None:
    started = time.monotonic()
    works = dump.make_filtered(
        directory / "vmcore.elf", directory / f"vmcore.{name}", dump.FILTERS[name], log
    )
    return time.monotonic() - started if works else None


def _in_guest(
    kernel: BuiltKernel, directory: Path, names: tuple[str, ...], accel: str, log: Log
) -> dict[str, float | None]:
    """Debian's makedumpfile reads dumps of its own architecture only: a guest has one that fits."""
    command = directory / "command"
    # makedumpfile reads and writes in small pieces, which 9p without a cache answers one by one.
    command.write_text(
        "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro dumps /data\n"
        + "".join(
            f"makedumpfile --message-level 6 {' '.join(dump.FILTERS[name])} /data/vmcore.elf /run/{name} && "
            f"cat /run/{name} > /share/vmcore.{name}; echo '@@ filtered rc='$?; rm -f /run/{name}\n"
            for name in names
        )
    )
    made: dict[str, float | None] = {}
    try:
        spec = qemu.GuestSpec(
            kernel=kernel,
            initrd=programs.initramfs(kernel.arch, with_kexec=True),
            cmdline=qemu.kernel_cmdline(kernel, "command", "page_owner=off page_pinner=off"),
            memory=GUEST_MEMORY,
            accel=accel,
            shares=(qemu.Share("share", directory), qemu.Share("dumps", directory, readonly=True)),
        )
        with Guest(spec, directory / "makedumpfile.log") as guest:
            guest.wait_for("hello", GUEST_SECONDS)
            for name in names:
                started = time.monotonic()
                works = guest.wait_for("filtered", GUEST_SECONDS).get("rc") == "0"
                made[name] = time.monotonic() - started if works else None
                if works:
                    (directory / f"vmcore.{name}").chmod(0o644)
                else:
                    (directory / f"vmcore.{name}").unlink(missing_ok=True)
                    log(f"no vmcore.{name}: makedumpfile failed, see makedumpfile.log")
    except GuestError as error:
        log(f"no more filtered dumps: {error}")
    finally:
        command.unlink(missing_ok=True)
    return made
