"""The executor `cpu`: a rank's graph by own kernels in C++, a step in one call."""
