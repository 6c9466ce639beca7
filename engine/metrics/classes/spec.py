"""The metrics of this family."""

from engine.contract.metric import Metric

METRICS = (
    Metric(
        name="top1", title="Top-1 accuracy", spoken="top-1", goal="max", needs="targets", unit="share", precedence=10, counts_examples=True
    ),
    Metric(
        name="top5", title="Top-5 accuracy", spoken="top-5", goal="max", needs="targets", unit="share", precedence=30, counts_examples=True
    ),
    Metric(name="cross_entropy", title="Cross-entropy", goal="min", needs="targets", unit="nats", precedence=40),
    Metric(name="f1_macro", title="F1, mean of the classes", goal="max", needs="targets", unit="share", precedence=31),
    Metric(
        name="exact_match",
        title="Examples with every label right",
        goal="max",
        needs="targets",
        unit="share",
        precedence=12,
        counts_examples=True,
    ),
    Metric(name="auroc", title="Area under the ROC curve", goal="max", needs="targets", unit="share", precedence=32),
    Metric(name="average_precision", title="Average precision", goal="max", needs="targets", unit="share", precedence=11),
    Metric(name="token_accuracy", title="Tokens with the right class", goal="max", needs="targets", unit="share", precedence=13),
    Metric(name="perplexity", title="Perplexity", goal="min", needs="targets", precedence=14),
    Metric(name="pixel_accuracy", title="Places with the right class", goal="max", needs="targets", unit="share", precedence=16),
    Metric(name="miou", title="Mean intersection over union", goal="max", needs="targets", unit="share", precedence=15),
)
