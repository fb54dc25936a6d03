"""Facts about the kernel's structures, on memory made by hand."""
