"""Transformers over bytes of text: a classifier and a language model."""
