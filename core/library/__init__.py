"""Models, datasets, uploads and artifacts."""
