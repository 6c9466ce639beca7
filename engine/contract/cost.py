"""What a step costs, as far as that is known before it runs: for the plan, the estimate and the progress bar."""

from __future__ import annotations

from dataclasses import dataclass, replace

BACKWARD = 3
"""A training pass costs this many forward passes (Baydin et al., JMLR 2018, section 3.2)."""
OBSERVED = 3
"""A calibration pass, in which every tensor is looked at, takes about as long as this many plain ones."""


@dataclass(frozen=True)
class Facts:
    """What is known of a job's inputs."""

    train_examples: int
    """Examples of the training split; 0 without one."""
    layers_count: int = 10
    """Layers that can be pruned; a guess where it is not known."""


@dataclass(frozen=True)
class Cost:
    """Passes of examples through the network; the uploaded one is meant, whatever becomes of it on the way."""

    trained_examples: float = 0.0
    """Examples that pass forward and backward, each as often as it does."""
    read_examples: float = 0.0
    """Examples that pass forward only, teachers' passes among them."""
    calibration_samples: int = 0
    """Training examples that the step asks for to calibrate on; they are fewer where there are fewer."""

    activation_bytes: int = 0
    """Activations that the step keeps at one time, besides the network; one example that takes more by itself takes more."""

    def passes(self, facts: Facts) -> float:
        """Forward passes of one example that take as long as all of it."""
        return BACKWARD * self.trained_examples + self.read_examples + OBSERVED * min(self.calibration_samples, facts.train_examples)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.trained_examples + other.trained_examples,
            self.read_examples + other.read_examples,
            self.calibration_samples + other.calibration_samples,
            max(self.activation_bytes, other.activation_bytes),
        )

    def times(self, count: float) -> Cost:
        """The same, so many times; calibration examples are the same ones every time."""
        return replace(self, trained_examples=count * self.trained_examples, read_examples=count * self.read_examples)


NOTHING = Cost()
"""What costs no pass of any example."""
