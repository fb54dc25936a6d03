"""What belongs below /usr/share: the man page and completion scripts, as docs/share.py makes them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmdump.plugins import load_plugins

pytest.importorskip("sphinx_click", reason="it takes the extra docs")
SHARE = Path(__file__).parent.parent / "docs/share.py"


def test_the_man_page_has_every_command_and_option(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SHARE, tmp_path], check=True, timeout=300)
    page = (tmp_path / "man/man1/mmdump.1").read_text()
    words = re.sub(r"\\f.|\\", "", page)
    for name in [
        "info",
        "page",
        "check",
        "report",
        "shell",
        "generate",
        *load_plugins(disabled=["*"]).analyses(),
    ]:
        assert re.search(rf"^\.SS {name}$", words, re.M), name
    for option in ("--where", "--cma", "--symbols", "--container", "--disable-plugin"):
        assert f"{option} " in words
    assert "EXIT STATUS" in words
    heads = re.findall(r"^\.SH \"?([A-Z ]+)\"?$", words, re.M)
    assert heads[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert re.search(r"SYNOPSIS.*?mmdump .*COMMAND .*VMCORE.*DESCRIPTION", words, re.S)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "mmdump.1",
        "mmdump",
        "_mmdump",
        "mmdump.fish",
    }
