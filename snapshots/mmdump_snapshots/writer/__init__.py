"""From the state of a machine to its memory, as a dump or a drgn Program, with the debug info to read it."""

from mmdump_snapshots.writer.image import Container, Image, build, build_state

__all__ = ["Container", "Image", "build", "build_state"]
