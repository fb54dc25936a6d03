"""`testbed kexec`: the real thing. The guest crashes, and makedumpfile writes dumps in the capture kernel."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from . import boot, cache, dump, programs, qemu, scenario
from .build import BuiltKernel
from .guest import Guest
from .run import split_names

DUMPS = {
    "vmcore.lzo-d31": "-l -d 31",
    "vmcore.zstd-d31": "-z -d 31",
    "vmcore.zlib-d0": "-c -d 0",
    "vmcore.lzo-d31.flat": "-F -l -d 31",
}
"""Dumps by their file's name: makedumpfile's options."""

CRASHKERNEL = 224
"""MiB reserved for the capture kernel with its initramfs and makedumpfile."""

CAPTURE_SECONDS = 900


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed kexec` understands."""
    boot.add_guest_arguments(parser)
    parser.add_argument("--dumps", default=",".join(DUMPS), help="which dumps (default: %(default)s)")
    parser.add_argument("--keep", type=int, default=2, help="runs of it that are kept (default: %(default)s)")


def default_memory(kernel: BuiltKernel) -> int:
    """Return the MiB of a guest that also reserves memory for a capture kernel."""
    return scenario.default_memory(kernel) + CRASHKERNEL + 32


def _prepare(directory: Path, kernel: BuiltKernel, initrd: Path, dumps: tuple[str, ...]) -> None:
    """Put what the guest needs to crash into the share: a symbolic link would not work there."""
    place = directory / "boot"
    place.mkdir()
    for source, name in ((kernel.image, "image"), (initrd, "initrd")):
        try:
            os.link(source.resolve(), place / name)
        except OSError:
            shutil.copyfile(source, place / name)
    (place / "dumps").write_text("".join(f"{name} {DUMPS[name]}\n" for name in dumps))
    (place / "append").write_text(
        f"console={qemu.console_of(kernel)} testbed.role=capture reset_devices irqpoll nr_cpus=1 "
        "cgroup_disable=memory panic=-1 loglevel=4\n"
    )


def run(kernel: BuiltKernel, args: argparse.Namespace) -> tuple[Path, scenario.Record]:
    """Boot, make all situations, read the truth, crash and collect the dumps."""
    directory = scenario.new_directory(f"{kernel.name}-kexec")
    # The capture kernel would wait for the stalled disk.
    situations = tuple(name for name in scenario.SITUATIONS if name not in {"dio", "loop"})
    scenario.prepare(directory, kernel, situations)
    initrd = programs.initramfs(kernel.arch, with_kexec=True)
    dumps = split_names(args.dumps, tuple(DUMPS), "dump")
    _prepare(directory, kernel, initrd, dumps)
    extra = f"crashkernel={CRASHKERNEL}M testbed.then=crash {args.cmdline}".strip()
    spec = qemu.GuestSpec(
        kernel=kernel,
        initrd=initrd,
        cmdline=qemu.kernel_cmdline(kernel, "run", extra),
        memory=qemu.parse_memory(args.memory) if args.memory else default_memory(kernel),
        nodes=args.nodes,
        cpus=args.cpus,
        accel=qemu.accelerator(kernel, args.accel),
        shares=(qemu.Share("share", directory), scenario.data_share(kernel)),
    )
    record = scenario.new_record(spec)
    scenario.say(f"{kernel.name} ({kernel.release}): booting to crash, see {directory}")
    try:
        with Guest(spec, directory / "console.log") as guest:
            scenario.until_quiet(guest, record, scenario.say)
            scenario.after_dump(guest, record)
            _crash(guest, record, dumps, directory)
    finally:
        scenario.finish_truth(directory, record)
        shutil.rmtree(directory / "boot", ignore_errors=True)
    cache.point(directory.with_name(f"{kernel.name}-kexec"), directory)
    return directory, record


def _crash(guest: Guest, record: scenario.Record, dumps: tuple[str, ...], directory: Path) -> None:
    mark = time.monotonic()
    guest.wait_for("crashing", scenario.SITUATION_SECONDS)
    # From here on "Kernel panic" is what was asked for.
    guest.console.wait_for(r"@@ hello role=capture[^\n]*\n", scenario.BOOT_SECONDS, panic_is_error=False)
    record.seconds["kexec"] = round(time.monotonic() - mark, 1)
    scenario.say(f"the capture kernel is up after {record.seconds['kexec']:.0f} s")
    for name in dumps:
        mark = time.monotonic()
        values = guest.wait_for("dumped", CAPTURE_SECONDS)
        seconds = round(time.monotonic() - mark, 1)
        works = values.get("rc") == "0"
        note = dump.notes_of((directory / f"{name}.log").read_text(errors="replace"))
        record.dumps[name] = {
            "format": DUMPS[name], "by": "makedumpfile in the capture kernel", "seconds": seconds,
            "works": works, "note": note,
        }  # fmt: skip
        outcome = f"written in {seconds:.0f} s" if works else f"makedumpfile failed, see {name}.log"
        scenario.say(f"{name}: {outcome}{', but ' + note if note else ''}")
        if works:
            (directory / name).chmod(0o644)
    guest.wait_for("end", 60)


def main(args: argparse.Namespace) -> int:
    """Run, and print the directory; 1 if a dump could not be written."""
    kernel = boot.built_kernel(args.kernel)
    directory, record = run(kernel, args)
    scenario.remove_runs(f"{kernel.name}-kexec", args.keep)
    sys.stdout.write(f"{directory}\n")
    return 0 if all(done["works"] for done in record.dumps.values()) else 1
