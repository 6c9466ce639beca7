"""A network in memory: its module or graph, masks, layers, initial weights."""
