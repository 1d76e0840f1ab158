"""A target of somebody else: engines that the interpreter runs, with a card that says what is in them."""
