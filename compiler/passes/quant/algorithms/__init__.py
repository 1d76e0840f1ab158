"""Algorithms of quantization, on tensors."""
