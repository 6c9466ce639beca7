"""Reads programs of torch.export without running anything of the file."""
