"""The HTTP front door: parse, call one `core` function, return."""
