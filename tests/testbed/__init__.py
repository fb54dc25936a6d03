import sys
from pathlib import Path

# kernel-config is a source root whose name is not that of a package, and nothing of it is installed.
_ROOT = str(Path(__file__).resolve().parents[2] / "kernel-config")
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
