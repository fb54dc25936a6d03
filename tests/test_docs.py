"""What README and docs say, held against the thing itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdump import hookspecs
from tests.conftest import Run, Sample

ROOT = Path(__file__).parent.parent


def test_every_hook_is_documented_and_no_other() -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    rows = set(re.findall(r"^\| `(mmdump_\w+)` \|", text, re.M))
    hooks = {name for name in vars(hookspecs) if name.startswith("mmdump_")}
    assert rows == hooks


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


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
    shown = re.search(r"```console\n\$ mmdump pinned vmcore\n(.*?)```", readme, re.S)
    assert shown is not None
    assert mmdump("pinned", sample.elf).out == shown[1]


def test_the_documented_machine_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/snapshots.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["truth.json", "vmcore", "vmlinux"]
