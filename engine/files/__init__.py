"""What may be run on bytes without torch or onnx: recognizing and checking files."""

from engine.contract.plugins import extended

__path__ = extended(__path__, __name__)
