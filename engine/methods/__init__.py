"""The methods, a folder a family: `spec.py` holds parameters, one file a method implements it."""

from engine.contract.plugins import extended

__path__ = extended(__path__, __name__)
