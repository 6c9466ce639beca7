"""Celery workers and the supervisor of one job child. Never imports torch."""
