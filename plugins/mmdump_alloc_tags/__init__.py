"""Memory allocation profiling: the line of code that allocated each page (mm/alloc_tag.c)."""
