"""Recursive and other rules: closures over trees, chains and a random graph, same generation, a genealogy."""
