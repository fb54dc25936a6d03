"""Completion: scripts for the shells are made, and they complete what there is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run

Mmdump = Callable[..., Run]


@pytest.fixture
def completed(mmdump: Mmdump) -> Callable[..., list[str]]:
    """The words that may stand for the last one of a line."""

    def complete(*words: str, kind: str = "plain") -> list[str]:
        environment = {"COMP_WORDS": " ".join(["mmdump", *words]), "COMP_CWORD": str(len(words))}
        run = mmdump(_MMDUMP_COMPLETE="bash_complete", **environment)
        assert (run.status, run.err) == (0, "")
        found = [line.split(",", 1) for line in run.out.splitlines()]
        assert {each for each, _ in found} <= {kind}
        return [word for _, word in found]

    return complete


def test_commands_are_completed_those_of_plugins_too(completed: Callable[..., list[str]]) -> None:
    assert completed("page-") == ["page-owner"]
    assert {"info", "pages", "pinned", "shell", "snapshot"} <= set(completed(""))
    assert completed("snapshot", "g") == ["generate"]


def test_options_are_completed(completed: Callable[..., list[str]]) -> None:
    assert completed("pinned", "--cm") == ["--cma"]
    assert {"--where", "--format", "--symbols"} <= set(completed("pages", "--"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("pinned", "-f", "j"), {"json", "jsonl"}),
        (("pinned", "--format", ""), {"text", "csv", "parquet", "pprof"}),
        (("snapshot", "generate", "cma"), {"cma-failure"}),
        (("snapshot", "generate", "idle", "--kernel", "6.12-"), {"6.12-arm64", "6.12-arm64-16k"}),
        (("snapshot", "generate", "idle", "--container", "k"), {"kdump"}),
        (("cat", "vmcore", "/proc/kpage"), {"/proc/kpageflags", "/proc/kpagecount"}),
        (("--disable-plugin", "page_o"), {"page_owner"}),
        (("pinned", "--table", ""), {"pages", "groups", "stacks", "cma", "timelines"}),
        (("info", "vmcore", "--table", "z"), {"zones"}),
        (("check", "--table", ""), {"violations", "checks"}),
        (("pinned", "--columns", "owner_"), {"owner_pid", "owner_comm"}),
        (("pinned", "--columns", "pfn,owner_"), {"pfn,owner_pid", "pfn,owner_comm"}),
        (("pinned", "--table", "groups", "--sort", "fol"), {"folios"}),
        (("page-owner", "--by", "pid,"), {"pid,comm", "pid,zone"}),
        (("page-owner", "--kind", "s"), {"slab", "shmem"}),
        (("page-owner", "--cull", "stack"), {"stacktrace"}),
        (("report", "--only", "pinned,bu"), {"pinned,buddy"}),
        (("report", "--skip", "th"), {"thp"}),
    ],
)
def test_values_are_completed(
    completed: Callable[..., list[str]], words: tuple[str, ...], found: set[str]
) -> None:
    assert found <= set(completed(*words))
    assert all(word.startswith(words[-1]) for word in completed(*words))


@pytest.mark.parametrize("words", [("pinned", "vmc"), ("pinned", "-s", "vml"), ("pinned", "-o", "out")])
def test_files_are_left_to_the_shell(completed: Callable[..., list[str]], words: tuple[str, ...]) -> None:
    assert completed(*words, kind="file") == [words[-1]]


def test_a_broken_plugin_does_not_break_completion(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    words = "mmdump --plugin broken.py page-"
    run = mmdump(_MMDUMP_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="3")
    assert (run.status, run.out) == (0, "plain,page-owner\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_made_and_it_takes_it(mmdump: Mmdump, shell: str) -> None:
    run = mmdump(_MMDUMP_COMPLETE=f"{shell}_source")
    assert run.status == 0
    assert "_MMDUMP_COMPLETE" in run.out
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell} here")
    subprocess.run([found, "-n"], input=run.out, check=True, text=True)


#: What makes a shell complete ``mmdump pinned --form`` and ``mmdump page-``, once it has the script.
ASKS = {
    "bash": """
        source ./script
        for line in "mmdump pinned --form" "mmdump page-"; do
            COMPREPLY=() COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            %s mmdump
            echo "${COMPREPLY[@]}"
        done
    """,
    "fish": 'source ./script; complete -C "mmdump pinned --form"; complete -C "mmdump page-"',
}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_that_has_the_script_completes(mmdump: Mmdump, shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    script = mmdump(_MMDUMP_COMPLETE=f"{shell}_source").out
    (tmp_path / "script").write_text(script)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/mmdump"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mmdump "$@"\n')
    program.chmod(0o755)
    ask = ASKS[shell]
    if shell == "bash":
        ask %= script.partition("()")[0].strip()
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        [shell, "-c", ask],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        text=True,
        timeout=60,
    )
    words = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert words == ["--format", "page-owner"], done
