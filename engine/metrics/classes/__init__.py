"""Metrics of class scores and of yes-or-no decisions, against targets."""
