"""The ftrace ring buffers: pages, lists, formats and texts."""
