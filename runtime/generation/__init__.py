"""Requests, prompts and sampling: what generates text with any executor."""
