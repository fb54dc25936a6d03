"""The test bed's guests, without QEMU: its protocol, its command line, archives, dumps and truth."""

from __future__ import annotations

import itertools
import json
import re
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed import dump, guest, initramfs, programs, qemu, qmp, run, scenario, truth
from testbed.errors import GuestError


def kernel(**info: Any) -> Any:
    machine = {"qemu": "qemu-system-x86_64", "machine": "q35", "cpu": "max", "console": "ttyS0"}
    return SimpleNamespace(info={"machine": machine} | info, image=Path("/k/image"), arch="x86_64")


def spec(**changes: Any) -> Any:
    values = {"kernel": kernel(), "initrd": Path("/k/initrd"), "cmdline": "quiet", "memory": 512} | changes
    return qemu.GuestSpec(**values)


def words_of(guest_spec: Any) -> list[str]:
    return list(qemu.command_line(guest_spec, Path("/s/console"), Path("/o/log"), Path("/s/qmp")))


# ---- QMP ---------------------------------------------------------------------------------------------


def serve(path: Path, lines: list[dict[str, Any]]) -> threading.Thread:
    """A QEMU that greets, and answers every command with the next of its lines."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def talk() -> None:
        connection, _ = server.accept()
        connection.sendall(b'{"QMP": {"version": {}}}\n')
        answers = iter([{"return": {}}, *lines])
        with connection, server, connection.makefile("rb") as commands:
            for _ in commands:
                for answer in answers:
                    connection.sendall(json.dumps(answer).encode() + b"\r\n")
                    if "event" not in answer:
                        break

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    return thread


def test_qmp_answers_events_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "q"
    serve(path, [{"event": "STOP"}, {"return": {"status": "paused"}}, {"error": {"desc": "no such format"}}])
    control = qmp.Qmp(path, timeout=10)
    assert control.execute("query-status") == {"status": "paused"}
    assert [event["event"] for event in control.events] == ["STOP"]
    with pytest.raises(GuestError, match=r"QEMU refused dump-guest-memory: no such format\."):
        control.execute("dump-guest-memory", paging=False)
    control.close()


def test_qmp_silence_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "q"
    serve(path, [])
    control = qmp.Qmp(path, timeout=10)
    with pytest.raises(GuestError, match="did not answer stop within"):
        control.execute("stop", timeout=0.2)
    control.close()


def test_qmp_needs_its_socket(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="did not open nothing within"):
        qmp.connect(tmp_path / "nothing", 0.1)


@pytest.mark.parametrize("line", [b"no json", b"[1]"])
def test_qmp_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(GuestError, match="QEMU sent a line that is not"):
        qmp.parse_line(line)


# ---- QEMU's command line -----------------------------------------------------------------------------


def test_command_line() -> None:
    words = words_of(spec(shares=(qemu.Share("share", Path("/out")), qemu.Share("host", Path("/"), True))))
    pairs = list(itertools.pairwise(words))
    assert words[0] == "qemu-system-x86_64"
    assert ("-accel", "tcg,thread=multi") in pairs
    assert ("-m", "512M") in pairs
    assert ("-device", "virtio-balloon-pci,free-page-reporting=on") in pairs
    assert ("-device", "vmcoreinfo") in pairs
    assert ("-append", "quiet") in pairs
    assert ("-device", "virtio-9p-pci,fsdev=host,mount_tag=host") in pairs
    (host,) = (word for word in words if word.startswith("local,id=host"))
    assert host.endswith(",readonly=on")
    assert "-numa" not in words


def test_command_line_with_two_nodes() -> None:
    words = words_of(spec(nodes=2, cpus=2))
    assert [word for word in words if word.startswith("node,")] == [
        "node,nodeid=0,cpus=0,memdev=ram0",
        "node,nodeid=1,cpus=1,memdev=ram1",
    ]
    with pytest.raises(GuestError, match="do not divide by 2 nodes"):
        words_of(spec(nodes=2, cpus=1))


def test_a_disk_that_stalls_is_there_when_asked_for() -> None:
    pairs = list(itertools.pairwise(words_of(spec(stalled_disk=True))))
    assert ("-device", "virtio-blk-pci,drive=stalled") in pairs
    [limits] = [value for name, value in pairs if name == "-object"]
    assert {"x-bps-total=1", "x-bps-total-max=131072"} < set(limits.split(","))
    assert not any("drive=stalled" in word for word in words_of(spec()))


def test_kernel_cmdline_has_the_callers_words_last() -> None:
    words = qemu.kernel_cmdline(kernel(), "run", "page_owner=off").split()
    assert words[0] == "console=ttyS0"
    assert words[-1] == "page_owner=off"
    assert {"testbed.role=run", "cgroup_disable=memory", "page_owner=on"} <= set(words)


@pytest.mark.parametrize(("text", "mib"), [("512M", 512), ("2G", 2048), ("768", 768)])
def test_memory(text: str, mib: int) -> None:
    assert qemu.parse_memory(text) == mib


@pytest.mark.parametrize("text", ["", "0", "1T", "-5M", "lots"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(GuestError, match="is not a size of memory"):
        qemu.parse_memory(text)


def test_names_are_checked() -> None:
    assert run.split_names("elf,kdump-zlib", dump.ALL_FORMATS, "dump format") == ("elf", "kdump-zlib")
    with pytest.raises(GuestError, match="raw is no dump format; there are elf"):
        run.split_names("elf,raw", dump.ALL_FORMATS, "dump format")


def test_situations_are_in_the_order_asked_for_and_all_stands_for_those_of_every_run() -> None:
    assert run.situations_of("all") == scenario.SITUATIONS
    assert run.situations_of("slowleak,all") == ("slowleak", *scenario.SITUATIONS)
    assert run.situations_of("tee,all,dio") == ("tee", *(x for x in scenario.SITUATIONS if x != "tee"))
    with pytest.raises(GuestError, match="thp2 is no situation; there are hugetlb"):
        run.situations_of("thp2")


def test_every_situation_is_known_to_the_workload() -> None:
    source = (Path(scenario.__file__).parent / "workload/main.c").read_text()
    known = re.findall(r'^\t\{ "(\w+)", make_', source, re.M)
    assert sorted((*scenario.SITUATIONS, *scenario.EXTRA_SITUATIONS)) == sorted(known)


# ---- the console -------------------------------------------------------------------------------------


def test_console_waits_for_lines_in_order() -> None:
    ours, theirs = socket.socketpair()
    console = guest.Console(ours)
    theirs.sendall(b"[ 1.0] boot\r\n@@ hello role=run release=6.12\r\n@@ before-done uptime=3.5\r\n")
    assert guest.parse_values(console.wait_for(r"@@ hello([^\n]*)\n", 5)[1].decode())["role"] == "run"
    assert console.wait_for(r"@@ before-done uptime=([\d.]+)", 5)[1] == b"3.5"
    with pytest.raises(GuestError, match=r"did not say 'never' within 0 s; last: @@ before-done"):
        console.wait_for("never", 0.05)
    theirs.sendall(b"Kernel panic - not syncing: Attempted to kill init!\r\n")
    with pytest.raises(GuestError, match="panicked: Attempted to kill init!"):
        console.wait_for("never", 5)
    theirs.close()
    with pytest.raises(GuestError, match="the guest ended before"):
        console.wait_for("never", 5, panic_is_error=False)
    console.close()


# ---- the initramfs -----------------------------------------------------------------------------------


def test_archive_is_newc() -> None:
    archive = initramfs.Archive()
    archive.file("etc/deep/name", b"hello", 0o600)
    archive.symlink("bin/sh", "busybox")
    archive.character_device("dev/console", 5, 1)
    data = archive.cpio()
    members, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        body = (at + 110 + name_size + 3) & ~3
        members[name] = (fields[1], data[body : body + size], fields[9:11])
        at = (body + size + 3) & ~3
        if name == "TRAILER!!!":
            break
    assert at == len(data)
    assert list(members)[:3] == ["etc", "etc/deep", "etc/deep/name"]
    assert members["etc/deep/name"][:2] == (0o100600, b"hello")
    assert members["bin/sh"][:2] == (0o120777, b"busybox")
    assert members["dev/console"] == (0o020600, b"", [5, 1])
    assert "dev/console" in archive


def test_links_of_a_foreign_root_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libz.so.1.2").write_text("z")
    (tmp_path / "lib/libz.so.1").symlink_to("libz.so.1.2")
    (tmp_path / "ld.so").symlink_to("/lib/libz.so.1")
    assert programs._resolve(tmp_path, "/ld.so") == tmp_path / "lib/libz.so.1.2"


# ---- dumps -------------------------------------------------------------------------------------------


def flattened(*parts: tuple[int, bytes], end: bool = True) -> bytes:
    data = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    data += b"".join(struct.pack(">qq", offset, len(part)) + part for offset, part in parts)
    return data + (struct.pack(">qq", -1, -1) if end else b"")


def test_unflatten(tmp_path: Path) -> None:
    flat, plain = tmp_path / "flat", tmp_path / "plain"
    flat.write_bytes(flattened((8, b"world"), (0, b"KDUMP   "), (20, b"!")))
    dump.unflatten(flat, plain)
    assert plain.read_bytes() == b"KDUMP   world".ljust(20, b"\0") + b"!"
    flat.write_bytes(b"KDUMP   already in order")
    dump.unflatten(flat, plain)
    assert plain.read_bytes() == b"KDUMP   already in order"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (flattened((0, b"x"), end=False), "ends in the middle"),
        (flattened((0, b"x" * 100))[:-60], "ends in the middle"),
        (flattened((-7, b"x")), "is damaged: 1 bytes at offset -7"),
    ],
)
def test_unflatten_damaged(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "flat").write_bytes(data)
    with pytest.raises(GuestError, match=says):
        dump.unflatten(tmp_path / "flat", tmp_path / "plain")


def test_elf_headers_are_put_where_makedumpfile_looks(tmp_path: Path) -> None:
    # As QEMU 7.2 writes it: 64 bytes of header (whose size it calls 8), two sections, one segment, notes.
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 192, 64, 0, 8, 56, 1, 64, 2, 1)
    segment = struct.pack("<IIQQQQQQ", 4, 0, 248, 0, 0, 4, 4, 0)
    path = tmp_path / "vmcore.elf"
    path.write_bytes(header + b"s" * 128 + segment + b"note")
    dump.tidy_elf(path)
    data = path.read_bytes()
    assert len(data) == 64 + 128 + 56 + 4
    assert struct.unpack_from("<QQ", data, 32) == (64, 0)
    assert struct.unpack_from("<HHHHHH", data, 52) == (64, 56, 1, 0, 0, 0)
    assert data[64:120] == segment
    assert data[248:] == b"note"
    dump.tidy_elf(path)
    assert path.read_bytes() == data


def test_names_of_dumps() -> None:
    formats = ("elf", "kdump-zlib", "kdump-lzo")
    assert [scenario.dump_name(name, formats) for name in formats] == [
        "vmcore.elf",
        "vmcore.kdump",
        "vmcore.kdump-lzo",
    ]


def test_options_that_makedumpfile_was_built_without() -> None:
    log = "'-z' option is disabled, because this binary doesn't support zstd compression.\nThe end.\n"
    assert dump.notes_of(log).startswith("'-z' option is disabled")
    assert dump.notes_of("makedumpfile Completed.") == ""


# ---- the truth ---------------------------------------------------------------------------------------

LINES = """\
absent: longpin: gup_test cannot hold pins (since 6.2): Inappropriate ioctl for device
failed: slab: the workload ended with an error
cma base=0x000000001be00000 mb=64 lo=114176 hi=130560
longpinhuge pid=64 io_uring fd=3 ret=0 head pfn=0x2c00 first pinned pfn=0x2c10
thp parent pid=62 idx=0 va=0x7f6fd0c00000 pfn=0x1b000
splice pid=70 pinned pfn=0x1be11 va=0x7f4b6171f000
splice pages in cma=897 pinned=16
all: rc=1
0
drained 8
"""


def test_truth_lines() -> None:
    lines = truth.parse_truth(LINES)
    assert truth.absent(lines) == {
        "longpin": "gup_test cannot hold pins (since 6.2): Inappropriate ioctl for device"
    }
    assert truth.failed(lines) == {"slab": "the workload ended with an error"}
    cma, huge, thp, splice, pages, rc = lines[2:8]
    assert (cma.number("lo"), cma.number("base")) == (114176, 0x1BE00000)
    assert (huge.kind, huge.number("head pfn"), huge.number("first pinned pfn")) == (
        "longpinhuge",
        0x2C00,
        0x2C10,
    )
    assert (huge.number("pid"), huge.number("fd")) == (64, 3)
    assert (thp.number("pid"), thp.number("pfn"), thp.number("va")) == (62, 0x1B000, 0x7F6FD0C00000)
    assert (splice.number("pfn"), splice.number("pid")) == (0x1BE11, 70)
    assert (pages.number("cma"), pages.number("pinned")) == (897, 16)
    assert (rc.kind, rc.number("rc")) == ("all", 1)
    assert [line.kind for line in lines[8:]] == ["0", "drained"]


def test_brackets(tmp_path: Path) -> None:
    for name, text in {
        "before/proc/buddyinfo": "a",
        "after/proc/buddyinfo": "a",
        "before/proc/vmstat": "1",
        "after/proc/vmstat": "22",
        "before/dmesg": "x",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {bracket.path: bracket for bracket in truth.brackets(tmp_path)}
    assert found["/proc/buddyinfo"].equal is True
    assert (found["/proc/vmstat"].equal, found["/proc/vmstat"].after) == (False, 2)
    assert (found["dmesg"].equal, found["dmesg"].after) == (None, None)


def test_dmesg_without_levels() -> None:
    assert truth.plain_dmesg("<6>[    0.0] a <7> b\n<12>[    1.0] c\n") == "[    0.0] a <7> b\n[    1.0] c\n"
