"""The metrics of this family."""

from engine.contract.metric import Metric

METRICS = (
    Metric(
        name="recall_at_1",
        title="Examples whose nearest other one is of their class",
        goal="max",
        needs="targets",
        unit="share",
        precedence=20,
        counts_examples=True,
    ),
    Metric(
        name="recall_at_k",
        title="Examples with one of their class among the ten nearest",
        goal="max",
        needs="targets",
        unit="share",
        precedence=21,
        counts_examples=True,
    ),
)
