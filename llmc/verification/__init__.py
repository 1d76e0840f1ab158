"""Comparing an engine with its graph, its checkpoint or another engine, and finding the operation that differs."""
