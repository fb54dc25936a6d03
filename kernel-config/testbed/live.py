"""`testbed live`: a command of this machine's file system, run in a guest that mounts it read-only."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from . import boot, programs, qemu, scenario
from .build import BuiltKernel
from .errors import GuestError
from .guest import Guest

MEMORY = 1536
"""MiB: a Python program with its libraries, beside the situations."""

SITUATIONS = "splice,thp,longpin,longpinhuge,iouring,dio,loop,tcp,unix,tee,leak"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed live` understands."""
    boot.add_guest_arguments(parser, memory=f"{MEMORY}M")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the command")
    parser.add_argument(
        "--situations", default=SITUATIONS, help="made before (%(default)s); also churn, or ''"
    )
    parser.add_argument("--output", type=Path, help="directory for stdout, stderr, truth.txt and the console")
    parser.usage = "%(prog)s [options] KERNEL -- COMMAND..."


def run(kernel: BuiltKernel, args: argparse.Namespace) -> tuple[Path, int]:
    """Run the command and return the directory with its output, and its exit status.

    In the guest the output directory is /mnt, /dev/shm is for temporary files, and nothing else can be
    written. Raises GuestError if the command did not end in time.
    """
    if not args.words:
        raise GuestError("which command is to run? testbed live KERNEL -- COMMAND...")
    if kernel.arch != qemu.NATIVE:
        raise GuestError(f"live runs use this machine's programs, which a guest of {kernel.arch} cannot run.")
    directory = args.output or scenario.new_directory(f"{kernel.name}-live")
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    command = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(args.words)}\n"
    (directory / "command").write_text(command)
    (directory / "situations").write_text(" ".join(args.situations.split(",")) + "\n")
    spec = qemu.GuestSpec(
        kernel=kernel,
        initrd=programs.initramfs(kernel.arch),
        cmdline=qemu.kernel_cmdline(kernel, "live", args.cmdline),
        memory=boot.memory_of(args, kernel),
        nodes=args.nodes,
        cpus=args.cpus,
        accel=qemu.accelerator(kernel, args.accel),
        stalled_disk=True,
        shares=(
            qemu.Share("share", directory),
            scenario.data_share(kernel),
            qemu.Share("host", Path("/"), readonly=True),
        ),
    )
    with Guest(spec, directory / "console.log") as guest:
        guest.wait_for("hello", scenario.BOOT_SECONDS)
        guest.wait_for("live-begin", scenario.SITUATION_SECONDS)
        mark = time.monotonic()
        values = guest.wait_for("live-end", args.timeout)
        scenario.say(f"the command ran for {time.monotonic() - mark:.0f} s, exit status {values['rc']}")
        guest.wait_for("end", 60)
    return directory, int(values["rc"])


def main(args: argparse.Namespace) -> int:
    """Run, print what the command printed, and return its exit status."""
    kernel = boot.built_kernel(args.kernel)
    directory, status = run(kernel, args)
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        stream.write((directory / name).read_text(errors="replace"))
    scenario.say(f"its output is in {directory}")
    if args.output is None:
        scenario.remove_runs(f"{kernel.name}-live", 3)
    return status
