"""TensorRT as data: the one import of its package, a network as a record, and the emulator that evaluates records."""
