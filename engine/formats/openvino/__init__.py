"""Writes OpenVINO IR and runs it, where the extra `openvino` is installed."""
