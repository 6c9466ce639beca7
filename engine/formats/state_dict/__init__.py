"""What all formats of weights alone share: the way from tensors to the module of a builtin architecture."""
