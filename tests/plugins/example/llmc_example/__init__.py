"""A plug-in for llmc: an op with all its parts, passes, and a family of models."""
