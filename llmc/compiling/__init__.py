"""From a checkpoint to an engine directory: requests, dry runs, targets' files, tokenizers, the manifest."""
