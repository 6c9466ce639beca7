"""Which channels and heads hang together, how they are ranked, and how they are removed."""
