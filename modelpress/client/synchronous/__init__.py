"""Written by `make docs` from the module of this name in `modelpress.client.asynchronous`; do not edit."""
