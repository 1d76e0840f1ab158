"""The Triton kernels of the CUDA executor, each with what it computes in words."""
