"""What TensorRT takes of each operation, and on which GPUs: checked before anything is built."""
