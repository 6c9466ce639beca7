"""How near outputs are to those of the uploaded model; no targets are needed."""
