"""Published files that decide by their input, timed where nothing but numpy and ONNX Runtime is installed."""
