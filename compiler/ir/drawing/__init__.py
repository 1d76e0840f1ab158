"""Pictures of graphs: a page to explore, a static SVG, and what other tools read."""
