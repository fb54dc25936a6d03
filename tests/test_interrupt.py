"""An interrupt as early as can be: while the command line is still being imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmdump import __version__

#: The program, which is interrupted when it begins to import a module.
START = """
import os, runpy, signal, sys

module, how = sys.argv[1:]
if how == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = ["--version"]
runpy.run_module("mmdump", run_name="__main__")
"""


def run(module: str, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, module, how], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["mmdump.cli", "click", "polars"])
def test_an_interrupt_while_modules_are_imported_is_one_line(module: str) -> None:
    done = run(module, "heard")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mmdump: interrupted\n")


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    done = run("polars", "ignored")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mmdump, version {__version__}\n", "")


def test_the_installed_program_begins_there_too() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"mmdump": "mmdump.__main__:entry"}
