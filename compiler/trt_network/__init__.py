"""TensorRT networks as plain data, and the one import of a TensorRT package."""
