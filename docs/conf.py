"""How the documentation site is built: ``sphinx-build -W -n docs build/docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

import mmdump

DOCS = Path(__file__).parent
# whole_cli.py
sys.path.insert(0, str(DOCS))

project = "mmdump"
author = "the mmdump developers"
copyright = author  # noqa: A001 - Sphinx's own word
version = release = mmdump.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.extlinks", "sphinx_click"]
exclude_patterns = ["**/.*"]

# Pages are read on the forge too: plain links between them, and to files beside the documentation.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"mmdump {version}"
html_copy_source = False
html_show_sphinx = False

man_pages = [("commands", "mmdump", "page-level analysis of Linux memory, post mortem", [author], 1)]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

# drgn's documentation has a role for files of the kernel, and helpers are written as if for it.
extlinks = {"linux": ("https://github.com/torvalds/linux/blob/master/%s", "%s")}

# Nothing is fetched while the site is built: names of other projects stay names.
_OTHERS = "_drgn|click|collections|drgn|importlib|numpy|np|os|pathlib|pl|pluggy|polars|str|typing"
nitpick_ignore_regex = [
    ("py:.*", rf"({_OTHERS})(\..*)?"),
    # Types that only type checkers import, and facts of the kernel whose modules have no page here.
    ("py:class", r"[A-Z]\w*"),
    ("py:class", r"mmdump\.(kernel|target)\.\w+\.[A-Z]\w*"),
]


def _list_new_pages(_app: Sphinx, name: str, source: list[str]) -> None:
    """Pages that index.md does not name are those of new commands: they come where the others are."""
    if name == "index":
        listed = {"index", *re.findall(r"^[\w/-]+$", source[0], re.M)}
        new = sorted({page.stem for page in DOCS.glob("*.md")} - listed)
        source[0] = source[0].replace("exports\n", "\n".join([*new, "exports\n"]))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _list_new_pages)
