"""Metrics, computed with numpy alone."""

from engine.contract.plugins import extended

__path__ = extended(__path__, __name__)
