"""The metrics of this family."""

from engine.contract.metric import Metric

METRICS = (
    Metric(name="r2", title="Share of the variance explained (R²)", goal="max", needs="targets", precedence=17),
    Metric(name="rmse", title="Root of the mean squared error", goal="min", needs="targets", precedence=18),
    Metric(name="mae", title="Mean absolute error", goal="min", needs="targets", precedence=19),
)
