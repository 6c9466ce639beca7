"""Health, the reconciler, statistics."""
