"""Metrics of plain values, against targets."""
