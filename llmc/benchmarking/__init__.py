"""How fast an engine is, beside the bound of its memory and beside other tools."""
