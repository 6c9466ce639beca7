"""The `modelpress` command."""
