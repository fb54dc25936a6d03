"""Write what belongs below /usr/share, or share/ of an environment: the man page, and completion scripts.

``python docs/share.py DIR``; a wheel that is built afterwards brings what is in ``build/share``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from click.shell_completion import get_completion_class
from sphinx.cmd.build import main as sphinx_build

from mmdump.cli import cli
from mmdump.cli.completion import VARIABLE

__all__ = ["write"]

DOCS = Path(__file__).parent
#: Where each shell looks for scripts.
SCRIPTS = {
    "bash": "bash-completion/completions/mmdump",
    "zsh": "zsh/site-functions/_mmdump",
    "fish": "fish/vendor_completions.d/mmdump.fish",
}


def write(share: Path) -> None:
    """Write all of it below a directory."""
    with tempfile.TemporaryDirectory() as work:
        arguments = ["-Q", "-b", "man", "-d", f"{work}/doctrees", str(DOCS), f"{work}/man"]
        if sphinx_build(arguments):
            raise SystemExit("the man page was not built")
        _put(share / "man/man1/mmdump.1", (Path(work) / "man/mmdump.1").read_text())
    for shell, place in SCRIPTS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        _put(share / place, kind(cli, {}, "mmdump", VARIABLE).source())


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {os.path.basename(sys.argv[0])} DIR")
    write(Path(sys.argv[1]))
