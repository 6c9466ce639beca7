"""From an ONNX graph to a trainable module with real layers."""
