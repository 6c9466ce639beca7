"""Reads weights of torch.save."""
