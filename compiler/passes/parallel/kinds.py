"""Kinds of op that act on every element alone."""

UNARY = ("scale", "clamp", "cast", "relu", "gelu", "silu", "sigmoid", "tanh", "cos", "sin", "transfer")
ELEMENTWISE = (*UNARY, "add", "sub", "mul", "div", "less", "less_equal", "logical_and", "where")
