"""Output appears whole or not at all, and never in place of something else."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import tty
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmdump.errors import UsageError
from mmdump.render import open_output, visible


def write(path: Path, content: bytes, then: Callable[[], object], force: bool = False) -> None:
    """Write the output, with something happening before it is whole."""
    with open_output(path, force) as out:
        out.write(content)
        then()


def stop() -> None:
    """What happens when the user has seen enough."""
    raise KeyboardInterrupt


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_output(path) as out:
        out.write(b"a\n")
        assert not path.exists()
    assert path.read_bytes() == b"a\n"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_after_an_error_nothing_remains(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.csv", b"half", stop)
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_not_replaced_without_force(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("precious")
    with pytest.raises(UsageError) as raised, open_output(path):
        pass
    assert raised.value.hint is not None
    assert "--force" in raised.value.hint
    assert path.read_text() == "precious"


def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(UsageError, match="exists"):
        write(path, b"new", lambda: path.write_text("precious"))
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_with_force_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    path.chmod(0o600)
    with open_output(path, force=True) as out:
        out.write(b"new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failure_with_force_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write(path, b"new", stop, force=True)
    assert path.read_text() == "old"


def test_through_a_link_the_file_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with open_output(link, force=True) as out:
        out.write(b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with open_output(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_filesystem_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with open_output(tmp_path / "out") as out:
        out.write(b"x")
    assert (tmp_path / "out").read_bytes() == b"x"
    with pytest.raises(UsageError), open_output(tmp_path / "other"):
        (tmp_path / "other").touch()


def test_a_device_or_a_pipe_is_written_directly(tmp_path: Path) -> None:
    with open_output("/dev/null") as out:
        out.write(b"x")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with open_output(fifo) as out:
        out.write(b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("name", [".", "missing/out.csv"])
def test_what_cannot_be_written_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError), open_output(tmp_path / name):
        pass


@pytest.mark.parametrize("path", [None, "-"])
def test_standard_output_stays_open(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer))
    with open_output(path) as out:
        out.write(b"x")
    assert buffer.getvalue() == b"x"


def test_a_reader_that_is_gone_is_the_callers_business(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=pipe, flush=lambda: None))
        with pytest.raises(BrokenPipeError), open_output(None) as out:
            out.write(b"x")


def test_a_stream_of_text_gets_text_however_the_bytes_are_cut() -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), open_output(None) as out:
        for byte in "grün €".encode():
            out.write(bytes([byte]))
        out.write(b"\xff.")
    assert text.getvalue() == "grün €\\xff."


def test_what_was_printed_before_comes_first(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with open_output(None) as out:
        out.write(b"after\n")
    assert capfd.readouterr().out == "before\nafter\n"


HOSTILE = b"comm \x1b]0;owned\x07\tcaf\xc3\xa9 \xc2\x9b1m \xe2\x80\xae\xff\r\n\0"


def test_a_terminal_gets_no_control_character_of_a_dump() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    with open(slave, "wb", buffering=0) as terminal:
        out = visible(terminal)
        # In pieces that cut characters in two.
        for byte in HOSTILE:
            out.write(bytes([byte]))
        expected = "comm \\x1b]0;owned\\x07\tcafé \\x9b1m \\u202e\\xff\\r\n\\x00"
        shown = b""
        # A terminal gives what it has by now.
        while len(shown) < len(expected.encode()):
            shown += os.read(master, 1 << 10)
    os.close(master)
    assert shown.decode() == expected


def test_what_is_no_terminal_gets_the_very_bytes(tmp_path: Path) -> None:
    with open_output(tmp_path / "out") as out:
        visible(out).write(HOSTILE)
    assert (tmp_path / "out").read_bytes() == HOSTILE
