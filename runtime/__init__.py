"""The runtime: engine directories, executors, and generation."""
