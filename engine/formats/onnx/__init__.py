"""Reads, writes, checks and counts ONNX files."""
