"""Running a rank's graph on a CUDA GPU by few kernels."""
