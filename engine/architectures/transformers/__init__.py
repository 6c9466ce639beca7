"""Networks of the library transformers, where it is installed."""
