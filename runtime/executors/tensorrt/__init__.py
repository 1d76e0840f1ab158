"""Running TensorRT engines, real or emulated."""
