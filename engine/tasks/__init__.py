"""What networks are for, a file a task: its targets, how they fit the network, its training loss and its metrics."""

from engine.contract.plugins import extended

__path__ = extended(__path__, __name__)
