"""drgn's shell on a terminal: ``drgn -c vmcore -s vmlinux``, and ``mmdump shell``, with ``%mmdump``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.shell.conftest import Core
from tests.shell.terminal import Terminal, terminal

Mmdump = Callable[..., Run]


@pytest.fixture(params=["drgn", "mmdump shell"])
def shell(request: pytest.FixtureRequest, core: Core, tmp_path: Path) -> Iterator[Terminal]:
    """A shell that has just said hello."""
    if request.param == "drgn":
        command = [sys.executable, "-m", "drgn", "-c", core.path, "-s", core.symbols]
    else:
        command = [sys.executable, "-m", "mmdump", "shell", core.path, "-s", core.symbols]
    with terminal(command, tmp_path) as opened:
        opened.until()
        yield opened


def test_a_command_shows_what_it_shows_elsewhere(shell: Terminal, core: Core, mmdump: Mmdump) -> None:
    shown = shell.says("%mmdump pinned")
    # A terminal has sentences broken between words.
    assert core.line in " ".join(shown.split())
    assert "Traceback" not in shown
    # Through a pipe lines are not cut to the terminal.
    assert shell.says("%mmdump pinned | cat") == mmdump("pinned", core.path, "-s", core.symbols).out
    assert shell.says("%mmdump pinned | grep -c PROBLEM") == "1\n"
    assert shell.ends() == 0


def test_options_conditions_and_files_work(shell: Terminal, tmp_path: Path) -> None:
    assert shell.says("%mmdump pinned --where \"state = 'released'\" -f csv --columns state | sort -u") == (
        "released\nstate\n"
    )
    assert shell.says("%mmdump pinned -f jsonl > rows.jsonl") == ""
    assert shell.says("%mmdump pinned -o rows.csv") == ""
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(rows) == len((tmp_path / "rows.csv").read_text().splitlines()) - 1 > 0


def test_errors_are_sentences_and_the_shell_goes_on(shell: Terminal) -> None:
    for line, words in (
        ("%mmdump pinned --frobnicate", "drgn: mmdump: No such option '--frobnicate'"),
        ("%mmdump frobnicate", "drgn: mmdump: No such command 'frobnicate'"),
        ("%mmdump pinned -f xml", "drgn: mmdump: there is no format xml"),
        ("%mmdump pinned --where 'nonsense > 1'", "nonsense"),
        ("%mmdump page", "no page was named\nSuch as: %mmdump page 0x1be00"),
        ("%mmdump page 0xfffffffffffff", "drgn: "),
        ("%mmdump snapshot list", "snapshot makes or opens a dump of its own"),
        ("%mmdump pinned -o /nowhere/at/all", "/nowhere/at/all"),
    ):
        shown = shell.says(line)
        assert words in shown, shown
        assert "Traceback" not in shown
        assert len(shown.splitlines()) <= 4
    assert shell.says("1 + 1") == "2\n"


def test_help_is_mmdumps(shell: Terminal) -> None:
    assert "  pinned  " in shell.says("%mmdump")
    shown = shell.says("%mmdump pinned --help")
    assert shown.startswith("Usage: %mmdump pinned [OPTIONS]\n")
    assert "--cma" in shown
    assert "--symbols" not in shown
    assert "--live" not in shown


def test_the_result_is_an_object_to_go_on_with(shell: Terminal, core: Core) -> None:
    shell.says("%mmdump pinned")
    assert shell.says("_.tables['groups'].frame.height") == f"{core.groups}\n"


SLOW = """
import sys, time
from mmdump import hookimpl
from mmdump.analysis import Analysis

class Slow(Analysis):
    name, summary, scans = "slow", "takes a minute", False

    def finish(self, kernel, state, parts):
        print("asleep", file=sys.stderr, flush=True)
        time.sleep(60)

@hookimpl
def mmdump_analyses():
    return [Slow]
"""


def test_a_command_that_is_interrupted_ends_and_the_shell_goes_on(shell: Terminal, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    shell.types("%mmdump --plugin slow.py slow\n")
    shell.until("asleep\n")
    shell.types("\x03")
    assert shell.until().removeprefix("^C") == "\nKeyboardInterrupt\n"
    assert shell.says("1 + 1") == "2\n"


def test_mmdump_shell_says_what_is_open_and_has_its_helpers(core: Core, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmdump", "shell", core.path, "-s", core.symbols]
    with terminal(command, tmp_path) as shell:
        banner = shell.until()
        assert str(core.path) in banner
        assert "%mmdump" in banner
        assert len(banner.splitlines()) <= 5
        assert shell.says("page_pinner(pfn_to_page(0))") == "False\n"
        assert shell.says("page_owner.__module__") == "'mmdump.helpers'\n"
        assert shell.says("run_command.__module__") == "'drgn.commands'\n"
        assert shell.says("page_size(pfn_to_page(0))") == "(unsigned long)4096\n"
        # drgn's own commands, and those of other plugins, are there too.
        assert shell.says("%sh echo hello") == "hello\n"
        assert shell.ends() == 0


def test_mmdump_shell_opens_nothing_without_a_dump(mmdump: Mmdump, tmp_path: Path) -> None:
    run = mmdump("shell")
    assert run.status == 2
    assert "no vmcore was given" in run.err
    assert mmdump("shell", tmp_path / "none").status == 3


@pytest.mark.parametrize(
    ("script", "status", "out", "err"),
    [
        ("print(len(run_command(prog, 'mmdump pinned > /dev/null').tables['groups'].frame))", 0, "5\n", ""),
        ("print(page_owner(pfn_to_page(0)).type_.type_name())", 0, "struct page_owner *\n", ""),
        ("1 / 0", 1, "", "ZeroDivisionError"),
        ("def", 1, "", "SyntaxError"),
        ("raise SystemExit(7)", 7, "", ""),
        ("run_command(prog, 'mmdump pinned -f xml')", 2, "", "there is no format xml"),
    ],
)
def test_without_a_terminal_standard_input_is_a_script(
    synthetic: Core, script: str, status: int, out: str, err: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmdump", "shell", str(synthetic.path)],
        input=script + "\n",
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (status, out), done.stderr
    assert err in done.stderr
    assert "bug in mmdump" not in done.stderr


def test_mmdump_is_there_where_drgns_plugins_are_switched_off(synthetic: Core, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmdump", "shell", "-q", synthetic.path]
    with terminal(command, tmp_path, DRGN_DISABLE_PLUGINS="*") as shell:
        assert shell.until().strip() == ""
        assert synthetic.line in " ".join(shell.says("%mmdump pinned").split())
        assert "command not found" in shell.says("%sh echo hello")
