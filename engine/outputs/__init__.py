"""What outputs of a network are, before anybody knows their task: evidence from their shapes and values, and losses."""
