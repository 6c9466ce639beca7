"""Reads and writes weights alone."""
