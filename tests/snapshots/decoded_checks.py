"""All that is compared of a decoded machine."""

from __future__ import annotations

from collections.abc import Callable

from .decoded import Decoded
from .decoded_files import check_kpage, check_page_owner_file
from .decoded_owners import check_page_owner, check_pinned, check_records
from .decoded_pages import (
    check_ext_flags,
    check_free,
    check_mappings,
    check_page_columns,
    check_surroundings,
)

__all__ = ["CHECKS"]

CHECKS: tuple[Callable[[Decoded], None], ...] = (
    check_surroundings,
    check_page_columns,
    check_mappings,
    check_free,
    check_ext_flags,
    check_records,
    check_pinned,
    check_page_owner,
    check_page_owner_file,
    check_kpage,
)
