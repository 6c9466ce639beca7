"""The networks of `engine.structure`'s tests serve here, too."""

from tests.engine.structure.conftest import network_of, shaped

__all__ = ["network_of", "shaped"]
