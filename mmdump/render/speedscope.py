"""speedscope's own JSON (its file-format-schema.json): one profile for each weight."""

from __future__ import annotations

import json

from mmdump.render.stacks import Chains, Frame, StackRenderer
from mmdump.result import Kind, Result

__all__ = ["SpeedscopeRenderer"]

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


class SpeedscopeRenderer(StackRenderer):
    """Writes one file with a profile for each weight; that of ``--weight`` is shown first."""

    def write(self, result: Result, chains: Chains) -> None:
        """Write the file."""
        frames: dict[Frame, int] = {}
        profiles: list[dict[str, object]] = []
        for index, column in enumerate(chains.weights):
            samples: list[list[int]] = []
            weights: list[int] = []
            for chain, weight in chains.folded(index).items():
                # Outermost first, as numbers of frames.
                samples.append([frames.setdefault(frame, len(frames)) for frame in reversed(chain)])
                weights.append(weight)
            profiles.append(
                {
                    "type": "sampled",
                    "name": f"{result.analysis} by {column.name}",
                    "unit": "bytes" if column.kind is Kind.BYTES else "none",
                    "startValue": 0,
                    "endValue": sum(weights),
                    "samples": samples,
                    "weights": weights,
                }
            )
        document = {
            "$schema": _SCHEMA,
            "exporter": f"mmdump {self.options.version}",
            "name": " ".join(str(each) for each in (result.analysis, result.target.get("release")) if each),
            "activeProfileIndex": chains.chosen,
            "shared": {"frames": [_frame(frame) for frame in frames]},
            "profiles": profiles,
        }
        # A path or release may hold what is not UTF-8: as ASCII it is an escape.
        self.out.write(json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n")


def _frame(frame: Frame) -> dict[str, str]:
    file = frame.file or frame.module
    return {"name": frame.name, "file": file} if file else {"name": frame.name}
