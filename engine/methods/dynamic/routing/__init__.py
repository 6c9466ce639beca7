"""What skip_routing is made of: the residual blocks of a network, gates before them, and their training."""
