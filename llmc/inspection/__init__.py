"""The facts about checkpoints, engines and graphs that `llmc inspect` prints."""
