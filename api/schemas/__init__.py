"""Shapes of what the API sends and takes."""
