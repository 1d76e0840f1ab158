"""Putting an engine together: its files, an executor for them, and its ranks."""
