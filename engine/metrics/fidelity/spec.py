"""The metrics of this family."""

from engine.contract.metric import Metric

METRICS = (
    Metric(
        name="agreement",
        title="Agreement with the original",
        goal="max",
        needs="baseline",
        unit="share",
        alike=0.99,
        precedence=60,
        counts_examples=True,
    ),
    Metric(name="cosine", title="Cosine to the original", goal="max", needs="baseline", precedence=61, alike=0.99),
    Metric(name="sqnr_db", title="Signal-to-noise against the original", goal="max", needs="baseline", unit="dB", precedence=62),
)
