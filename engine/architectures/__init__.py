"""Builtin architectures: what safetensors and `.pt` files, which hold weights only, can be the weights of."""

from engine.contract.plugins import extended

__path__ = extended(__path__, __name__)
