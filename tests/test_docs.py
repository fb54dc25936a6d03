"""What README and docs say, held against the thing itself."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdump import hookspecs
from mmdump.plugins import load_plugins
from tests import test_hooks
from tests.conftest import Run, Sample

ROOT = Path(__file__).parent.parent


HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("mmdump_")}


def test_every_hook_is_documented_and_no_other_with_what_it_returns() -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    rows = dict(re.findall(r"^\| `(mmdump_\w+)` \| `([^`]+)` \|", text, re.M))
    assert "No hook takes arguments" in text
    signatures = {name: inspect.signature(hook) for name, hook in HOOKS.items()}
    assert {name: f"list[{row}]" for name, row in rows.items()} == {
        name: signature.return_annotation for name, signature in signatures.items()
    }
    assert not [name for name, signature in signatures.items() if signature.parameters]


def test_every_hook_is_public_has_a_docstring_and_a_test() -> None:
    assert set(hookspecs.__all__) == HOOKS.keys()
    assert all(hook.__doc__ for hook in HOOKS.values())
    tests = {name for name in vars(test_hooks) if name.startswith("test_mmdump_")}
    assert tests == {f"test_{name}" for name in HOOKS}


PAGES = sorted(page for page in (ROOT / "docs").glob("**/*.md") if ".pytest_cache" not in page.parts)


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *PAGES]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor[1:] in _anchors(path), f"{page.name}: {target}{anchor}"


def _anchors(page: Path) -> set[str]:
    """What a heading is called in links."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_command_has_a_page_and_a_line_in_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in load_plugins(disabled=["*"]).analyses():
        assert (ROOT / f"docs/{name}.md").exists(), name
        assert re.search(rf"^    mmdump {name} ", readme, re.M), name


def test_the_documented_api_works(mmdump: Callable[..., Run], tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api/index.md").read_text(), re.S)
    assert mmdump("snapshot", "generate", "cma-failure", "-o", ".").status == 0
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, check=False, cwd=tmp_path, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "postgres 1204" in done.stdout
    assert "problem CMA reserved: 16 MiB" in done.stdout


def test_the_documented_report_is_made(mmdump: Callable[..., Run], tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/report.md").read_text(), re.S)
    assert mmdump("snapshot", "generate", "cma-failure", "-o", ".").status == 0
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, check=False, cwd=tmp_path, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"problem CMA reserved: 16 MiB; .*: 12 by FOLL_PIN \(allocated by comm-\d+ 1204\)", done.stdout
    )


def test_the_documented_scripts_for_drgn_work(mmdump: Callable[..., Run], tmp_path: Path) -> None:
    scripts = re.findall(r"```python\n(.*?)```", (ROOT / "docs/shell.md").read_text(), re.S)
    assert mmdump("snapshot", "generate", "cma-failure", "-o", ".").status == 0
    text = "\n".join(scripts).replace("0x1BE00", "64602")
    done = subprocess.run(
        [sys.executable, "-m", "mmdump", "shell", "vmcore"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        input=text,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second, *frames, last = done.stdout.splitlines()
    assert first.startswith("postgres 1204 ")
    assert second == "b'tar' (unsigned short)0"
    assert frames[0].startswith("#0  post_alloc_hook")
    assert last == "False"


def _example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text(), re.S)
    return next(block for block in blocks if "class FreeBlocks" in block)


def test_the_documented_plugin_loads(mmdump: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(_example())
    run = mmdump("--plugin", "example.py", "free-blocks", "--help")
    assert run.status == 0, run.err
    assert "--smallest" in run.out


def test_the_documented_plugin_counts_what_buddyinfo_counts(
    mmdump: Callable[..., Run], tmp_path: Path, sample: Sample
) -> None:
    (tmp_path / "example.py").write_text(_example())
    run = mmdump("--plugin", "example.py", "free-blocks", sample.kdump, "-f", "jsonl")
    assert run.status == 0, run.err
    assert len(run.out.splitlines()) == 11
    largest = mmdump("--plugin", "example.py", "free-blocks", sample.kdump, "--smallest", "10", "-f", "jsonl")
    assert '"order":10,"blocks":24' in largest.out


def test_readme_shows_what_the_command_prints(mmdump: Callable[..., Run], sample: Sample) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"```console\n\$ mmdump pinned vmcore --holders\n(.*?)```", readme, re.S)
    assert shown is not None
    out = mmdump("pinned", sample.elf, "--holders").out
    for part in filter(None, shown[1].split("...\n")):
        assert part in out
        out = out.partition(part)[2]


def test_the_documented_machine_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/snapshots.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["truth.json", "vmcore", "vmlinux"]
