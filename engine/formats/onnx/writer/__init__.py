"""Writes networks of known operations as ONNX without torch's exporter, which takes seconds to load and to trace."""
