"""Measuring how good a model is."""
