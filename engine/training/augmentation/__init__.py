"""Changes of training examples at random."""
