"""mmdump: page-level analysis of Linux memory, from vmcores and the live kernel."""

from __future__ import annotations

# As typing's, which takes time to import; until all is imported an interrupt is a traceback.
TYPE_CHECKING = False

if TYPE_CHECKING:
    import pluggy

    #: Marks a function as one of mmdump's hooks; see :mod:`mmdump.hookspecs`.
    hookimpl: pluggy.HookimplMarker

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]


def __getattr__(name: str) -> object:
    # drgn imports this package whenever it starts: pluggy would be most of what that costs.
    if name == "hookimpl":
        import pluggy

        marker = globals()[name] = pluggy.HookimplMarker("mmdump")
        return marker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
