"""Dynamic networks: how much they compute depends on the input."""
