"""mmdump: page-level analysis of Linux memory, from vmcores and the live kernel."""

import pluggy

#: Marks a function as one of mmdump's hooks; see :mod:`mmdump.hookspecs`.
hookimpl = pluggy.HookimplMarker("mmdump")

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]
