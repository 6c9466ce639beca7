"""Networks of the library torchvision, where it is installed."""
