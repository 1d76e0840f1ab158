"""From a checkpoint, or an engine, to a checkpoint in the Hugging Face layout that other programs read."""
