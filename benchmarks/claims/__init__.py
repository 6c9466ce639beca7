"""Claims of the papers, reproduced through the engine's public spec: what the paper found, what we find, and whether it holds."""
