"""Executors over several ranks: pipelines of stages, and the loop of the ranks that rank 0 drives."""
