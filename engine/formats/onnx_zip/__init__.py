"""Reads ONNX files whose weights lie beside them."""
