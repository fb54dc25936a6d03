"""The test bed: build real kernels, boot them, make situations happen, and take dumps of them."""
