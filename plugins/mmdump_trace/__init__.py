"""Trace events from the ftrace ring buffers of a dump (kernel/trace/)."""
