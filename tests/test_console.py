"""What the documentation shows of a terminal is what the commands print.

``MMDUMP_REWRITE_DOCS=1`` writes what they print into the pages.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run

Mmdump = Callable[..., Run]

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.M | re.S)
REWRITE = "MMDUMP_REWRITE_DOCS"
#: Pages that begin with making a dump, so that anybody can follow.
PAGES = ["tutorial.md"]


@pytest.mark.parametrize("name", PAGES)
def test_commands_print_what_the_page_shows(mmdump: Mmdump, tmp_path: Path, name: str) -> None:
    page = DOCS / name
    text = page.read_text()

    def printed(block: re.Match[str]) -> str:
        lines = []
        for line in block[1].splitlines():
            if not line.startswith("$ "):
                continue
            program, *words = shlex.split(line.removeprefix("$ "))
            assert program == "mmdump"
            run = mmdump(*words)
            assert run.status == 0, (line, run.err)
            lines.append(f"{line}\n{run.out}")
        return "".join(lines)

    real = BLOCK.sub(printed, text)
    if os.environ.get(REWRITE):
        page.write_text(real)
    assert real == text, f"{REWRITE}=1 writes what the commands print into {name}"
    assert (tmp_path / "out/vmcore").exists()


def test_the_tutorials_other_commands_work(mmdump: Mmdump, tmp_path: Path) -> None:
    text = (DOCS / "tutorial.md").read_text()
    assert mmdump("snapshot", "generate", "cma-failure", "-o", "out").status == 0
    commands = [
        line.partition("#")[0]
        for block in re.findall(r"```sh\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    assert len(commands) == 2
    for command in commands:
        program, *words = shlex.split(command)
        run = mmdump(*words)
        assert (program, run.status) == ("mmdump", 0), run.err
        assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 100


def test_readmes_commands_work(mmdump: Mmdump, tmp_path: Path) -> None:
    readme = (DOCS.parent / "README.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", readme, re.S) for line in block.splitlines()]
    commands = [line.partition("  #")[0] for line in lines if line.startswith("mmdump ")]
    assert len(commands) >= 5
    assert mmdump("snapshot", "generate", "cma-failure", "-o", ".").status == 0
    for command in commands:
        run = mmdump(*shlex.split(command)[1:])
        assert run.status == 0, (command, run.err)
    assert (tmp_path / "heap.pb.gz").exists()


def test_the_picture_in_readme_is_of_what_the_command_shows(mmdump: Mmdump, tmp_path: Path) -> None:
    pytest.importorskip("rich._export_format")
    picture = DOCS / "pictures/pinned.svg"
    assert "docs/pictures/pinned.svg" in (DOCS.parent / "README.md").read_text()
    assert mmdump("snapshot", "generate", "cma-failure", "-o", "out").status == 0
    (tmp_path / "mmdump").write_text(f'#!/bin/sh\nexec {sys.executable} -m mmdump "$@"\n')
    (tmp_path / "mmdump").chmod(0o755)
    command = [sys.executable, DOCS / "picture.py", "made.svg", "mmdump", "pinned", "out/vmcore", "--cma"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # The picture has colours.
    environment.pop("NO_COLOR", None)
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    made = (tmp_path / "made.svg").read_text()
    if os.environ.get(REWRITE):
        picture.write_text(made)
    words = re.compile(r">([^<]*)</text>")
    assert words.findall(picture.read_text()) == words.findall(made)
    assert len(words.findall(made)) > 30
    assert "url(" not in made.replace("url(#", "")
