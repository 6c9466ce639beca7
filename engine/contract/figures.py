"""Every result of a job, from the process that measures files to the page that shows them: figures, comparison, judgement.

A network may be published with several settings (a width, an exit, a budget); one unnamed setting is the ordinary case. Documents
may hold more than these types name: a reader leaves out what it does not know.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer, model_validator

from engine.contract.params import Params

Outcome = Literal["constraints_met", "constraints_not_met", "no_constraints"]
SpeedWord = Literal["faster", "same", "slower"]
Milliseconds = Annotated[float, Field(ge=0)]
FileMetrics = dict[str, JsonValue]
"""What was measured on one published file, by name."""
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Shares of the timed runs that `Latency.quantiles` tells the times of."""
MOST_SETTINGS = 64
"""Settings of one network: each of them is written, scored and timed."""


class Record(BaseModel):
    """Base of what is measured: frozen, finite, and open to additions."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False)


class Setting(Params):
    """One way to run a published network, such as width 0.5, exit 3 or budget 0.2."""

    name: str = Field("", max_length=64)
    """Empty where the network has one setting only."""
    values: dict[str, float | str] = {}
    """What the setting sets, by name."""


class Latency(Record):
    """Time of one run, measured in turns with the other file."""

    p50: Milliseconds
    """Median, in milliseconds."""
    p95: Milliseconds
    """95th percentile, in milliseconds."""
    batch_size: int
    threads: int
    runtime: str
    """Runtime and execution provider."""
    runs_count: int
    inputs_count: int | None = None
    """Where what a network computes depends on its input: so many inputs of the evaluated split were timed, p50 and p95 are over
    them, and so are the three figures that follow. Left out where one input was timed again and again."""
    mean: Milliseconds | None = None
    p10: Milliseconds | None = None
    """Of easy inputs."""
    p90: Milliseconds | None = None
    """Of hard inputs."""
    quantiles: tuple[Milliseconds, ...] | None = None
    """How the times are distributed, at the shares 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95 and 0.99; left out in results of before there were any."""

    @property
    def typical(self) -> float:
        """What one run costs: the mean over inputs where they differ, else the median."""
        return self.p50 if self.mean is None else self.mean

    @model_serializer(mode="wrap")
    def _known_only(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        return {key: value for key, value in written.items() if value is not None}


class Speed(Record):
    """How many times faster the result is than the baseline at one batch size: the median ratio of neighbouring runs; the ratio of
    the means over the same inputs where a network's cost depends on its input."""

    batch_size: int
    speedup: float
    """More than 1 where the result is faster."""
    speedup_low: float
    speedup_high: float
    """95 % interval of the median."""
    verdict: SpeedWord


class Timing(Record):
    """Baseline and result at one batch size."""

    baseline: Latency
    result: Latency
    speed: Speed


class Figures(Record):
    """What was measured on one file; the same keys for the baseline and for every result."""

    metrics: dict[str, float | None]
    """By `<split>.<name>`; null where a metric has no finite value."""
    file_bytes: int
    gzip_bytes: int
    """Size after gzip at its default level: exact up to 8 MiB, of larger files to within half a percent."""
    params_count: int | None
    nonzero_params_count: int | None
    macs_count: int | float | None
    """Multiply-accumulates for one example; a mean where the network decides by the example how much it computes."""
    latency_ms: Latency
    """The first of `latencies`."""
    latencies: tuple[Latency, ...] = Field(min_length=1)
    """One entry a batch size."""

    @model_validator(mode="before")
    @classmethod
    def _first_latency(cls, data: Any) -> Any:
        if isinstance(data, dict) and "latency_ms" not in data and data.get("latencies"):
            return {**data, "latency_ms": data["latencies"][0]}
        return data


class Comparison(Record):
    """How many times smaller and faster a result is than the baseline, and how much each metric changed."""

    file_ratio: float | None
    gzip_ratio: float | None
    params_ratio: float | None
    macs_ratio: float | None
    """Each ratio is baseline / result; null where one of the two is unknown or 0."""
    metric_changes: dict[str, float]
    """result - baseline, for metrics that both have."""
    latencies: tuple[Speed, ...]
    """One entry a batch size."""

    @classmethod
    def of(cls, baseline: Figures, result: Figures, speeds: tuple[Speed, ...]) -> Self:
        """Compare two sets of figures."""
        pairs = {key: (baseline.metrics.get(key), value) for key, value in result.metrics.items()}
        return cls(
            file_ratio=_ratio(baseline.file_bytes, result.file_bytes),
            gzip_ratio=_ratio(baseline.gzip_bytes, result.gzip_bytes),
            params_ratio=_ratio(baseline.params_count, result.params_count),
            macs_ratio=_ratio(baseline.macs_count, result.macs_count),
            metric_changes={key: after - before for key, (before, after) in pairs.items() if before is not None and after is not None},
            latencies=speeds,
        )


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before is not None and after else None


class ConstraintCheck(Record):
    """One target of the spec beside what was measured."""

    name: str
    limit: float
    value: float | None
    """Null where it could not be measured: no limit is met then."""
    met: bool
    metric: str | None = None
    """Of an accuracy target: `<split>.<name>`."""
    drop_type: Literal["absolute", "relative"] | None = None
    """Of `accuracy.max_drop`."""

    @model_serializer(mode="wrap")
    def _known_only(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        return {key: value for key, value in written.items() if value is not None or key not in ("metric", "drop_type")}


class Judgement(Record):
    """The verdict on one setting."""

    speed: SpeedWord
    """At the first batch size."""
    outcome: Outcome
    constraints: tuple[ConstraintCheck, ...]


class OtherCpu(Record):
    """What a file with 8-bit products gives on the kind of processor that it was not measured on: with VNNI (AMX, ARM) or without."""

    kind: Literal["with_vnni", "without_vnni"]
    """The other kind."""
    how: Literal["by_construction", "float_session", "emulated", "unknown"]
    """`by_construction`: no two weights saturate, so that both kinds agree. `float_session`: run without 8-bit kernels. `emulated`: what
    16-bit sums cut is taken off. `unknown`: an operator that may saturate cannot be looked into."""
    metrics: dict[str, float | None] = {}
    """By `<split>.<name>`; those of the file itself where both kinds agree by construction, none where it is unknown."""
    products_count: int = 0
    """8-bit products whose weights may saturate on a processor without VNNI."""


class Measured(Record):
    """One setting of the published network: its figures, beside the baseline and beside the constraints."""

    setting: Setting
    figures: Figures
    comparison: Comparison
    verdict: Judgement
    other_cpu: OtherCpu | None = None
    """Of files with 8-bit products."""


class Result(Record):
    """What a compression came to."""

    baseline: Figures
    settings: tuple[Measured, ...] = Field(min_length=1, max_length=MOST_SETTINGS)
    judged_setting: str | None = None
    """Name of the setting that the job's outcome rests on, see `engine.contract.constraints.decisive`; None for the first."""

    @property
    def first(self) -> Measured:
        """The setting whose figures stand for the network where there is room for one."""
        return self.settings[0]

    @property
    def judged(self) -> Measured:
        """The setting that the job's outcome rests on."""
        return next((item for item in self.settings if item.setting.name == self.judged_setting), self.first)

    @property
    def outcome(self) -> Outcome:
        """The job's outcome."""
        return self.judged.verdict.outcome

    def summary(self) -> "Summary":
        """As clients read it."""
        first = self.first
        return Summary(
            baseline=self.baseline,
            result=first.figures,
            verdict=first.verdict.speed,
            comparison=first.comparison,
            settings=self.settings,
            judged_setting=self.judged.setting.name,
        )


class Summary(Record):
    """The figures of a job: `baseline` and `result` hold the same keys, measured the same way."""

    baseline: Figures
    result: Figures
    """The first setting."""
    verdict: SpeedWord
    """Speed of the first setting at the first batch size."""
    comparison: Comparison
    """The first setting beside the baseline."""
    settings: tuple[Measured, ...] = ()
    """Every setting of the published network; one without a name in the ordinary case."""
    judged_setting: str = ""
    """Name of the setting that the job's outcome rests on: the best, or with `constraints.settings: all` the worst."""
