"""Parameters of the dynamic family: how much a network computes depends on the input."""

from engine.methods.dynamic.spec_exits import EarlyExit
from engine.methods.dynamic.spec_skip import SkipRouting

__all__ = ["EarlyExit", "SkipRouting"]
