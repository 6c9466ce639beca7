"""What may be run on bytes without torch or onnx: recognizing and checking files."""
