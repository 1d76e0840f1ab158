"""The torch executor: runs a rank's graph on any CPU or CUDA GPU."""
