"""What the service answers with, as types: the API documents itself with them, and the client reads its answers into them."""
