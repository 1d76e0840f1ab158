"""The intermediate representation: typed, immutable graphs of transformer ops, and what reads, checks and runs them."""
