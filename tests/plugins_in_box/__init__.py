"""Facts about the analyses in the box, on memory made by hand."""
