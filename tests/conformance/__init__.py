"""Conformance: what mmdump reads from a dump, record by record against the kernel's own files."""
