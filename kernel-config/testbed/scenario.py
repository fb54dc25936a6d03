"""One run: a guest with all situations, the truth around the dumps, and everything in one directory."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import cache, dump, filters, programs, qemu, told, truth
from .build import BuiltKernel
from .errors import GuestError
from .guest import Guest

BOOT_SECONDS = 240
SITUATION_SECONDS = 600
TRUTH_SECONDS = 600

SITUATIONS = (
    # In this order: hugetlb finds memory whole, and what comes after frag goes into its holes. A sender whose
    # peer has no room asks ever more seldom whether it has: the longer before the dump, the quieter.
    "hugetlb", "splice", "tcp", "frag", "leak", "thp", "mthp", "shmthp", "filethp", "pagecache",
    "longpin", "longpinhuge", "iouring", "dio", "loop", "unix", "tee",
    "slab", "pagetables", "ksm", "poison", "reported",
)  # fmt: skip
"""What a run makes; see workload/main.c."""

EXTRA_SITUATIONS = ("slowleak", "churn")
"""What goes on while the truth is read, and is made when asked for. First, if it is to last long."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """What a run can be told."""

    memory: int
    nodes: int = 1
    cpus: int = 2
    accel: str = "tcg"
    cmdline: str = ""
    formats: tuple[str, ...] = ("elf", "kdump-zlib")
    compress: bool = False
    filters: tuple[str, ...] = tuple(dump.FILTERS)
    """Names in dump.FILTERS."""
    situations: tuple[str, ...] = ()
    """Names in SITUATIONS and EXTRA_SITUATIONS, in the order in which they are made; none: SITUATIONS."""


@dataclass
class Record:
    """run.json: what was run, and what came of it."""

    kernel: str
    release: str
    arch: str
    page_size: int
    memory: int
    nodes: int
    accel: str
    cmdline: str
    dumps: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)


def default_memory(kernel: BuiltKernel) -> int:
    """Return the MiB of a run: a huge page has 32 MiB where pages have 16 KiB, and needs room."""
    return 512 if kernel.page_size == 4096 else 1024


def say(text: str) -> None:
    """Tell the user how far a run is."""
    sys.stderr.write(f"testbed: {text}\n")
    sys.stderr.flush()


def new_directory(name: str) -> Path:
    """Return a new directory for a run: runs/NAME-STAMP in the cache."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = cache.cache_dir("runs") / f"{name}-{stamp}"
    with suppress(FileExistsError):
        path.mkdir()
        return path
    path = path.with_name(f"{path.name}-{os.getpid()}")
    path.mkdir()
    return path


def link_kernel(kernel: BuiltKernel, directory: Path) -> None:
    """Put the debug info beside the dumps: a hard link, or a symbolic one on another file system."""
    for name in ("vmlinux", "config", "System.map"):
        try:
            os.link((kernel.path / name).resolve(), directory / name)
        except OSError:
            (directory / name).symlink_to((kernel.path / name).resolve())


def data_share(kernel: BuiltKernel) -> qemu.Share:
    """Return the share whose file fills the guest's page cache: larger than one huge page."""
    size = (12 if kernel.page_size == 4096 else 40) << 20
    path = cache.cache_dir("data") / str(kernel.page_size) / "data.bin"
    if not path.exists() or path.stat().st_size != size:
        path.parent.mkdir(exist_ok=True)
        line = b"".join(b"%015d\n" % number for number in range(1 << 16))
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(line * (size // len(line)))
        fresh.replace(path)
    return qemu.Share("data", path.parent, readonly=True)


def run(
    kernel: BuiltKernel, options: RunOptions, *, name: str | None = None, log: Log = say
) -> tuple[Path, Record]:
    """Boot, make all situations, read the truth around the dumps; return the run's directory and record.

    `name` is for the directory, the kernel's by default.

    Raises GuestError if the guest did not get that far; the directory with its console.log stays.
    """
    directory = new_directory(name or kernel.name)
    prepare(directory, kernel, options.situations or SITUATIONS)
    spec = qemu.GuestSpec(
        kernel=kernel,
        initrd=programs.initramfs(kernel.arch),
        cmdline=qemu.kernel_cmdline(kernel, "run", options.cmdline),
        memory=options.memory,
        nodes=options.nodes,
        cpus=options.cpus,
        accel=qemu.accelerator(kernel, options.accel),
        shares=(qemu.Share("share", directory), data_share(kernel)),
        stalled_disk=True,
        reports=directory / "qemu.log",
    )
    record = new_record(spec)
    log(f"{kernel.name} ({kernel.release}): booting {spec.memory} MiB under {spec.accel}, see {directory}")
    try:
        with Guest(spec, directory / "console.log") as guest:
            until_quiet(guest, record, log)
            guest.qmp.execute("stop")
            keep_reports(guest, directory, log)
            for format_name in wanted_formats(guest, options.formats, record, log):
                path = directory / dump_name(format_name, options.formats)
                seconds = dump.dump(guest.qmp, path, format_name)
                record.dumps[path.name] = {"format": format_name, "by": "qemu", "seconds": round(seconds, 1)}
                log(f"{path.name}: {path.stat().st_size >> 20} MiB in {seconds:.0f} s")
            guest.qmp.execute("cont")
            after_dump(guest, record)
    finally:
        finish_truth(directory, record)
    if (directory / "vmcore.elf").exists():
        record.dumps |= filters.filtered(kernel, directory, options.filters, spec.accel, log)
    if options.compress:
        for dumped in list(record.dumps):
            record.dumps[dump.compress(directory / dumped).name] = record.dumps.pop(dumped)
    write_record(directory, record)
    cache.point(directory.with_name(name or kernel.name), directory)
    return directory, record


def prepare(directory: Path, kernel: BuiltKernel, situations: tuple[str, ...]) -> None:
    """Put into a run's directory what its guest and its readers look for there."""
    (directory / "truth").mkdir()
    (directory / "situations").write_text(" ".join(situations) + "\n")
    link_kernel(kernel, directory)


def new_record(spec: qemu.GuestSpec) -> Record:
    """Return the record of a guest that is about to start."""
    kernel = spec.kernel
    return Record(
        kernel=kernel.name, release=kernel.release, arch=kernel.arch, page_size=kernel.page_size,
        memory=spec.memory, nodes=spec.nodes, accel=spec.accel, cmdline=spec.cmdline,
    )  # fmt: skip


def dump_name(format_name: str, formats: tuple[str, ...]) -> str:
    """Return the file's name of a format: vmcore.elf, and vmcore.kdump for the first of the kdump formats."""
    if format_name == "elf":
        return "vmcore.elf"
    kdumps = [name for name in formats if name != "elf"]
    return "vmcore.kdump" if kdumps[:1] == [format_name] else f"vmcore.{format_name}"


def wanted_formats(guest: Guest, wanted: tuple[str, ...], record: Record, log: Log) -> list[str]:
    """Return the wanted formats that this QEMU can write so that readers understand; note the others."""
    available = dump.available_formats(guest.qmp)
    found = []
    for name in wanted:
        if name not in available:
            why = f"this QEMU cannot write {name} dumps of {guest.spec.kernel.arch}"
        elif name != "elf" and guest.spec.kernel.arch == "arm64":
            why = (
                f"QEMU's {name} dumps of arm64 have blocks of 64 KiB and no architecture: nothing reads them"
            )
        else:
            found.append(name)
            continue
        record.absent[name] = why
        log(why)
    return found


def until_quiet(guest: Guest, record: Record, log: Log) -> None:
    """Wait until the situations are made and the truth was read for the first time."""
    started = time.monotonic()
    guest.wait_for("hello", BOOT_SECONDS)
    record.seconds["boot"] = round(time.monotonic() - started, 1)
    log(f"booted in {record.seconds['boot']:.0f} s")
    mark = time.monotonic()
    guest.wait_for("preparing", SITUATION_SECONDS)
    record.seconds["situations"] = round(time.monotonic() - mark, 1)
    log(f"situations made in {record.seconds['situations']:.0f} s")
    mark = time.monotonic()
    guest.wait_for("before-done", TRUTH_SECONDS)
    record.seconds["before"] = round(time.monotonic() - mark, 1)


def keep_reports(guest: Guest, directory: Path, log: Log) -> None:
    """Write down what the hypervisor was told until now; or say why that is not known."""
    said = guest.spec.reports
    memory = told.guest_memory(guest.maps(), guest.spec.memory << 20)
    if said is None or not said.exists() or memory is None:
        log("what the hypervisor was told is not known: QEMU's memory or its log was not found")
        return
    try:
        reports = told.ranges(said.read_text(errors="replace"), memory, guest.spec.kernel)
    except GuestError as error:
        log(f"what the hypervisor was told is not known: {error}")
    else:
        told.write(directory, reports)


def after_dump(guest: Guest, record: Record) -> None:
    """Let the guest read the truth again and hand it out."""
    mark = time.monotonic()
    # The guest blocks in read(): a line is what lets it go on.
    guest.console.send("go")
    guest.wait_for("after-done", TRUTH_SECONDS)
    record.seconds["after"] = round(time.monotonic() - mark, 1)
    guest.wait_for("truth-done", TRUTH_SECONDS)


def finish_truth(directory: Path, record: Record) -> None:
    """Compare both readings, and put the workload's words into the record."""
    for path in directory.glob("truth/*/dmesg"):
        path.write_text(truth.plain_dmesg(path.read_text(errors="replace")))
    with suppress(OSError):
        lines = truth.parse_truth((directory / "truth/truth.txt").read_text(errors="replace"))
        record.absent |= truth.absent(lines)
        record.failed |= truth.failed(lines)
    record.files = [asdict(bracket) for bracket in truth.brackets(directory / "truth")]
    write_record(directory, record)


def write_record(directory: Path, record: Record) -> None:
    """Write run.json."""
    (directory / "run.json").write_text(json.dumps(asdict(record), indent=2) + "\n")


def remove_runs(name: str, keep: int) -> None:
    """Remove all but the newest runs of a kernel."""
    runs = sorted(path for path in cache.cache_dir("runs").glob(f"{name}-2*") if path.is_dir())
    for path in runs[: max(0, len(runs) - keep)]:
        shutil.rmtree(path, ignore_errors=True)
