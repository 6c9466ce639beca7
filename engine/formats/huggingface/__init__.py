"""Reads folders of transformers and timm models."""
