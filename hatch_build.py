"""What a wheel brings besides packages: the man page and completion scripts, where they have been made."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Share(BuildHookInterface):
    """Takes build/share, which ``python docs/share.py build/share`` writes, as the environment's share/."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Called before the wheel is built."""
        top = os.path.join(self.root, "build", "share")
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                build_data["shared_data"][path] = os.path.join("share", os.path.relpath(path, top))
