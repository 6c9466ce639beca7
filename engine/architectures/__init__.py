"""Builtin architectures: what safetensors and `.pt` files, which hold weights only, can be the weights of."""
