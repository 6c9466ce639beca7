"""Metrics, computed with numpy alone."""
