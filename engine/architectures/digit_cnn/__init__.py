"""A small convolutional network for digits."""
