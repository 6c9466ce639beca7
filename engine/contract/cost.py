"""What a step costs, as far as that is known before it runs: for the plan, the estimate and the progress bar."""

from __future__ import annotations

from dataclasses import dataclass, replace

BACKWARD = 3
"""A training pass costs this many forward passes (Baydin et al., JMLR 2018, section 3.2)."""
TRAINED_COPIES, MASKED_COPIES = 6, 10
"""Copies of the weights while a network is trained: weights, gradients, two moments, the original and the state that is saved; and while it
is trained through masks or rounding, whose weights, factors and gradients are there besides."""
OBSERVED = 3
"""A calibration pass, in which every tensor is looked at, takes about as long as this many plain ones."""

LARGE_FILE_BYTES, LARGE_BATCH = 2**24, 16
MOST_INPUT_BYTES = 2**23
"""A large file, or one of large examples, is run on a few examples at a time: more take much memory, and are no quicker."""


def run_together(file_bytes: int, example_bytes: int, most: int) -> int:
    """How many examples a file is run on at one time, at most `most`; `example_bytes` are those of one example's inputs."""
    fits = max(1, MOST_INPUT_BYTES // max(example_bytes, 1))
    return min(most, fits, LARGE_BATCH if file_bytes >= LARGE_FILE_BYTES else most)


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
    optimizer_steps: float = 0.0
    """Steps of an optimizer, each of which goes through all weights."""
    read_examples: float = 0.0
    """Examples that pass forward only, teachers' passes among them."""
    calibration_samples: int = 0
    """Training examples that the step asks for to calibrate on; they are fewer where there are fewer."""

    activation_bytes: int = 0
    """Activations that the step keeps at one time, besides the network; one example that takes more by itself takes more."""
    kept_examples: int = 0
    """Examples whose activations training keeps at one time for their gradients: those of a batch."""

    copies: int = 0
    """Copies of the network's weights that the step holds at one time."""
    tried_files: int = 0
    """Versions of the network that are written and measured before one becomes the result."""

    def passes(self, facts: Facts) -> float:
        """Forward passes of one example that take as long as all of it."""
        return BACKWARD * self.trained_examples + self.read_examples + OBSERVED * min(self.calibration_samples, facts.train_examples)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            trained_examples=self.trained_examples + other.trained_examples,
            optimizer_steps=self.optimizer_steps + other.optimizer_steps,
            read_examples=self.read_examples + other.read_examples,
            calibration_samples=self.calibration_samples + other.calibration_samples,
            activation_bytes=max(self.activation_bytes, other.activation_bytes),
            kept_examples=max(self.kept_examples, other.kept_examples),
            copies=max(self.copies, other.copies),
            tried_files=self.tried_files + other.tried_files,
        )

    def times(self, count: float) -> Cost:
        """The same, so many times; calibration examples are the same ones every time."""
        return replace(
            self,
            trained_examples=count * self.trained_examples,
            optimizer_steps=count * self.optimizer_steps,
            read_examples=count * self.read_examples,
        )


NOTHING = Cost()
"""What costs no pass of any example."""
