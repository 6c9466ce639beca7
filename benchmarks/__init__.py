"""Claims and side-by-sides; never part of `make test`."""
