"""Results by hand, for tests of what carries and stores them."""

from engine.contract.figures import Comparison, Figures, Judgement, Latency, Measured, Result, Setting, Speed, Summary


def figures(file_bytes: int = 100, *, top1: float = 0.9, p50: float = 1.0) -> Figures:
    """Figures of one file."""
    latency = Latency(p50=p50, p95=p50, batch_size=1, threads=1, runtime="onnxruntime", runs_count=5)
    return Figures(
        metrics={"test.top1": top1},
        file_bytes=file_bytes,
        gzip_bytes=file_bytes,
        params_count=file_bytes // 4,
        nonzero_params_count=file_bytes // 4,
        macs_count=1000,
        latency_ms=latency,
        latencies=(latency,),
    )


def summary(file_bytes: int = 7, *, names: tuple[str, ...] = ("",)) -> Summary:
    """A summary with one setting for each name."""
    baseline, found = figures(), figures(file_bytes)
    speed = Speed(batch_size=1, speedup=1.0, speedup_low=1.0, speedup_high=1.0, verdict="same")
    settings = tuple(
        Measured(
            setting=Setting(name=name),
            figures=found,
            comparison=Comparison.of(baseline, found, (speed,)),
            verdict=Judgement(speed="same", outcome="no_constraints", constraints=()),
        )
        for name in names
    )
    return Result(baseline=baseline, settings=settings).summary()
