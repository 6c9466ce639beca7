"""Weights with a few levels: what is trained, and how it is published."""
