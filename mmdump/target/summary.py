"""What was opened, as plain data for a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdump.target.program import Target

__all__ = ["summarise"]


def summarise(target: Target) -> dict[str, object]:
    """The target as it stands in a JSON document: only strings, integers, booleans and None."""
    dump, symbols = target.dump, target.debug_info
    return {
        "path": None if target.path is None else str(target.path),
        "live": target.live,
        "release": target.release,
        "build_id": target.build_id,
        "architecture": target.architecture,
        "page_size": target.page_size,
        "format": None if dump is None else dump.format,
        "compression": None if dump is None else dump.compression,
        "filter_level": None if dump is None else dump.filter_level,
        "truncated": None if dump is None else dump.truncated,
        "crash_time": target.crash_time,
        "debug_info": None if symbols is None else str(symbols.path),
        "debug_info_build_id": None if symbols is None else symbols.build_id,
        "debug_info_forced": symbols is not None and symbols.forced,
    }
