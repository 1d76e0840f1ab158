"""Running two computations of a model side by side, and finding the first operation at which they part."""
