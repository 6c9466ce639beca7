"""Reads and writes weights as safetensors."""
