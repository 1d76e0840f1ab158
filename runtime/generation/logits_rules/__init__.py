"""Rules that change the logits of a request before its next token is chosen."""
