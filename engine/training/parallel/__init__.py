"""One training in several processes that divide every batch among them."""
