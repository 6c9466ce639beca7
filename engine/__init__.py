"""The compression library of Modelpress: runs with or without the service."""

__version__ = "0.1.0"
