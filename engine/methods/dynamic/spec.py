"""Parameters of the dynamic family: networks that decide by their input how much they compute."""

from engine.methods.dynamic.spec_exits import EarlyExit

__all__ = ["EarlyExit"]
