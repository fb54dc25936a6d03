"""``run_command(prog, "mmdump ...")`` in a script: it prints, and returns a result to work with."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drgn
import pytest
from drgn.commands import CommandArgumentError, CommandError, run_command

from mmdump.cli import keeper
from mmdump.cli.attached import Attached
from mmdump.drgn_plugin import MmdumpCommand
from mmdump.errors import MmdumpError, UnsupportedError
from mmdump.kernel import Kernel
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump.target import Target
from mmdump_page_pinner import Pinned
from mmdump_snapshots.kernels import profiles
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.writer.image import build
from tests.conftest import Run
from tests.shell.conftest import Core


def given(prog: drgn.Program, command: str) -> tuple[Result, str]:
    """What a command returned and what it printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        result = run_command(prog, f"mmdump {command}")
    return result, text.getvalue()


def test_a_command_prints_and_returns_what_it_found(prog: drgn.Program, core: Core) -> None:
    result, text = given(prog, "pinned")
    assert core.line in text
    assert isinstance(result, Result)
    assert result.tables["groups"].frame.height == core.groups
    # Rows that went by on their way to the text are there too, with columns that text does not show.
    pages = result.tables["pages"].frame
    assert pages.height == core.pages
    assert pages["refcount"].null_count() == 0
    assert "cma-blocked" in [finding.key for finding in result.findings]


def test_it_is_the_result_that_python_gets(prog: drgn.Program) -> None:
    result, _ = given(prog, "pinned --cma")
    attached = Attached.of(prog)
    expected = run_one(attached.kernel(attached.plugins((), ()), bare=False), Pinned(cma="*"))
    assert result.summary == expected.summary
    assert list(result.tables) == list(expected.tables)
    for name, table in expected.tables.items():
        assert result.tables[name].frame.equals(table.frame), name


def test_the_table_asked_about_has_the_rows_and_columns_asked_for(prog: drgn.Program) -> None:
    result, _ = given(prog, "pinned --where \"state = 'released'\" --columns pfn,state --sort -pfn")
    pages = result.tables["pages"].frame
    assert pages.columns == ["pfn", "state"]
    assert set(pages["state"]) == {"released"}
    assert pages["pfn"].is_sorted(descending=True)
    owners, _ = given(prog, "page-owner --limit 3")
    assert owners.tables["groups"].frame.height == 3
    whole, _ = given(prog, "page-owner")
    assert whole.tables["groups"].frame.height > 3
    other, _ = given(prog, "pinned --table groups")
    assert "pages" not in other.tables


def test_a_redirection_silences_it(
    prog: drgn.Program, core: Core, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_command(prog, f"mmdump pinned > {tmp_path / 'out'}")
    assert result.tables["groups"].frame.height == core.groups
    assert capsys.readouterr() == ("", "")
    assert core.line in (tmp_path / "out").read_text()


def test_a_pipe_that_nobody_reads_to_its_end_is_no_error(prog: drgn.Program) -> None:
    run_command(prog, "mmdump pages -f csv | head -n 1 > /dev/null")
    assert given(prog, "buddy")[1]


def test_kernel_files_are_printed_and_are_no_result(prog: drgn.Program) -> None:
    result, text = given(prog, "cat buddyinfo")
    assert result is None
    assert re.match(r"Node 0, zone +DMA", text)
    assert given(prog, "pinned --help")[0] is None


def test_a_report_is_made_of_the_open_kernel(prog: drgn.Program, tmp_path: Path) -> None:
    result, text = given(prog, "report -f md --only pinned")
    assert result is None
    assert "CMA reserved" in text
    given(prog, f"report -o {tmp_path / 'report.html'} --only pinned")
    assert "CMA reserved" in (tmp_path / "report.html").read_text()


def test_what_was_read_stays(prog: drgn.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    given(prog, "pinned")

    def again(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("mmdump.kernel.read_memmap", again)
    monkeypatch.setattr("mmdump.kernel.read_page_layout", again)
    monkeypatch.setattr("mmdump.plugins._load_file", again)
    monkeypatch.setattr("mmdump.cli.attached.Attached.__init__", again)
    given(prog, "pinned")
    given(prog, "page-owner")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pinned --frobnicate", "mmdump: No such option '--frobnicate'"),
        ("frobnicate", "mmdump: No such command 'frobnicate'"),
        ("pinned -f pprof", "mmdump: format pprof is nothing for a terminal"),
        ("pinned --table none", "no table 'none'"),
        ("cat /proc/none", "none"),
        ("demo", "mmdump: demo makes or opens a dump of its own"),
    ],
)
def test_what_makes_no_sense_is_an_error_with_its_reason(
    prog: drgn.Program, command: str, words: str
) -> None:
    with pytest.raises(CommandArgumentError) as error:
        given(prog, command)
    assert words in str(error.value)
    assert isinstance(error.value.__cause__, Exception)


def test_what_a_kernel_lacks_is_an_error_with_its_reason() -> None:
    profile = profiles()["6.12"]
    machine = Machine(profile.era, arch=profile.arch, boot=Boot(page_owner=False))
    prog = build(machine, profile).program()
    with pytest.raises(CommandError, match="page_owner was built in but is off") as error:
        given(prog, "page-owner")
    assert isinstance(error.value.__cause__, UnsupportedError)
    assert not isinstance(error.value, CommandArgumentError)
    assert given(prog, "buddy")[0].tables


def test_an_error_of_mmdump_itself_is_named_as_one(
    prog: drgn.Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Pinned, "scan", lambda *_: 1 / 0)
    with pytest.raises(CommandError, match="internal error: ZeroDivisionError") as error:
        given(prog, "pinned")
    assert "bug in mmdump" in str(error.value)
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(CommandError):
        given(prog, "pinned --debug")
    assert "Traceback" in capsys.readouterr().err


def test_debug_info_that_comes_later_is_used(synthetic: Core) -> None:
    prog = drgn.Program()
    prog.set_core_dump(synthetic.path)
    with pytest.raises(CommandError, match="drgn has no debug info") as error:
        given(prog, "pinned")
    assert isinstance(error.value.__cause__, MmdumpError)
    assert "Linux 6.12" in given(prog, "info")[1]
    prog.load_debug_info([synthetic.symbols])
    assert synthetic.line in given(prog, "pinned")[1]


def test_a_plugin_from_a_file_is_there_and_a_broken_one_does_no_harm(
    prog: drgn.Program, core: Core, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('on \\x1b[31m purpose')\n")
    (tmp_path / "hello.py").write_text(
        "from mmdump import hookimpl\n"
        "from mmdump.analysis import Analysis\n"
        "from mmdump.result import Result\n"
        "class Hello(Analysis):\n"
        "    name, summary, scans = 'hello', 'says so', False\n"
        "    def finish(self, kernel, state, parts):\n"
        "        return Result('hello', summary=['hello ' + kernel.target.release])\n"
        "@hookimpl\n"
        "def mmdump_analyses():\n"
        "    return [Hello]\n"
    )
    plugins = f"--plugin {tmp_path / 'broken.py'} --plugin {tmp_path / 'hello.py'}"
    result, text = given(prog, f"{plugins} hello")
    assert text.startswith("hello 6.12")
    assert result.summary
    err = capsys.readouterr().err
    assert "plugin broken" in err
    assert "\x1b" not in err
    assert core.line in given(prog, "pinned")[1]


def test_no_more_rows_are_kept_than_a_script_can_hold(
    prog: drgn.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ROWS_KEPT", 1000)
    result, _ = given(prog, "pages -f csv --columns pfn")
    rows = result.tables["pages"].frame
    assert rows["pfn"].to_list() == sorted(rows["pfn"])
    assert rows.height == 1000
    assert "of which 1,000 are kept" in result.incomplete[-1]
    few, _ = given(prog, "pages -f csv --columns pfn --limit 10")
    assert few.tables["pages"].frame.height == 10
    assert not few.incomplete
    last, _ = given(prog, "pages -f csv --columns pfn --sort -pfn")
    assert last.tables["pages"].frame["pfn"].is_sorted(descending=True)
    assert last.tables["pages"].frame.height == 1000


def test_a_script_keeps_its_logging(prog: drgn.Program) -> None:
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    given(prog, "buddy")
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before


def test_only_kernels_have_the_command() -> None:
    command = MmdumpCommand()
    assert not command.enabled(drgn.Program())
    assert "mmdump COMMAND" in command.format_help(indent="  ")
    assert command.description()
    assert command.format_usage().startswith("mmdump ")


def test_a_program_that_is_let_go_of_is_gone(synthetic: Core) -> None:
    prog = drgn.Program()
    prog.set_core_dump(synthetic.path)
    prog.load_debug_info([synthetic.symbols])
    given(prog, "pinned")
    kernel = weakref.ref(next(iter(Attached.of(prog)._kernels.values())))
    assert isinstance(kernel(), Kernel)
    assert isinstance(Attached.of(prog).target, Target)
    del prog
    gc.collect()
    assert kernel() is None


@pytest.fixture(params=["drgn", "drgn on stdin", "mmdump shell"])
def script(request: pytest.FixtureRequest, core: Core, tmp_path: Path) -> Callable[[str], Run]:
    """Runs a script in a process of its own."""

    def run(text: str) -> Run:
        words = (
            ["drgn", "-c", core.path] if request.param.startswith("drgn") else ["mmdump", "shell", core.path]
        )
        given = ["-s", core.symbols]
        if request.param == "drgn":
            (tmp_path / "script.py").write_text(text)
            given.append(tmp_path / "script.py")
        command = [sys.executable, "-m", *map(str, [*words, *given])]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=300)
        return Run(done.returncode, done.stdout, done.stderr)

    return run


_ASKS = """from drgn.commands import run_command
def ask():
    run_command(prog, "mmdump pinned --table none")
"""


def test_a_script_that_does_not_catch_an_error_shows_its_sentences(script: Callable[[str], Run]) -> None:
    run = script(_ASKS + "ask()\n")
    assert run.status
    said = [line for line in run.err.splitlines() if not line.startswith("drgn ")]
    assert said[0] == "mmdump: pinned has no table 'none'."
    assert said[1].startswith("Tables: pages, ")
    assert said[2].startswith('  File "')
    assert said[2].endswith(", line 3")
    assert len(said) == 3


def test_a_script_can_catch_it_and_its_own_errors_are_pythons(script: Callable[[str], Run]) -> None:
    caught = "try:\n    ask()\nexcept Exception as error:\n    print(type(error).__mro__)\n"
    run = script(_ASKS + caught + "{}['mine']\n")
    assert "CommandArgumentError" in run.out
    assert "pinned has no table" not in run.err
    assert "Traceback (most recent call last)" in run.err
    assert run.err.endswith("KeyError: 'mine'\n")
    assert "mmdump/cli" not in run.err
