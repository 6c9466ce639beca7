"""Training with the rounding of a QDQ file in the forward pass."""
