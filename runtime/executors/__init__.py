"""What runs the model of an engine: the interface, and its implementations."""
