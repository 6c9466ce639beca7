"""Draws the weights of a builtin architecture."""
