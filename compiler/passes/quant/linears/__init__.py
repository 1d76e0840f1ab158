"""Which linears are quantized, and how the quantized ones take their place."""
