"""Facts about real memory: what mmdump says of a real vmcore, held against the kernel's own view of it."""
