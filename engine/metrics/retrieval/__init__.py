"""Metrics of embeddings, by which like things are found."""
