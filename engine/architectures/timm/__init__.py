"""Networks of the library timm, where it is installed."""
