"""Share of the positions whose best class is the right one, of all examples together."""

from engine.metrics.classes.top1 import Accumulator

__all__ = ["Accumulator"]
