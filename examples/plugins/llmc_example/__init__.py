"""Plug-ins of all kinds for llmc: an op with all its parts, passes, a family of models, and a target."""
