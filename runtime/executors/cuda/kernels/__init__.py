"""Triton kernels, each with the torch code that prepares what it reads."""
