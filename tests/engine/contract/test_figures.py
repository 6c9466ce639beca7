import pytest
from pydantic import ValidationError

from engine.contract.figures import Comparison, Figures, Judgement, Latency, Measured, Result, Setting, Speed, Summary


def latency(p50: float, batch_size: int = 1) -> Latency:
    return Latency(p50=p50, p95=p50 * 1.5, batch_size=batch_size, threads=1, runtime="onnxruntime", runs_count=5)


def figures(top1: float, file_bytes: int, params_count: int, *latencies: Latency) -> Figures:
    return Figures(
        metrics={"test.top1": top1, "test.sqnr_db": None},
        file_bytes=file_bytes,
        gzip_bytes=file_bytes,
        params_count=params_count,
        nonzero_params_count=params_count,
        macs_count=0,
        latency_ms=latencies[0],
        latencies=latencies,
    )


def speed(batch_size: int) -> Speed:
    return Speed(batch_size=batch_size, speedup=2.0, speedup_low=1.9, speedup_high=2.1, verdict="faster")


BASELINE = figures(0.9, 400, 100, latency(2.0), latency(16.0, 8))
SMALLER = figures(0.8, 100, 50, latency(1.0), latency(8.0, 8))


def measured(setting: Setting) -> Measured:
    compared = Comparison.of(BASELINE, SMALLER, (speed(1), speed(8)))
    return Measured(
        setting=setting, figures=SMALLER, comparison=compared, verdict=Judgement(speed="faster", outcome="no_constraints", constraints=())
    )


def test_ratios_compare_both_sides_and_a_missing_figure_has_none() -> None:
    compared = Comparison.of(BASELINE, SMALLER, (speed(1), speed(8)))
    assert (compared.file_ratio, compared.gzip_ratio, compared.params_ratio) == (4, 4, 2)
    assert compared.macs_ratio is None
    assert compared.metric_changes == {"test.top1": pytest.approx(-0.1)}
    assert [item.batch_size for item in compared.latencies] == [1, 8]


def test_the_first_setting_is_what_clients_read_as_the_result() -> None:
    wide, narrow = Setting(name="width 1", values={"width": 1.0}), Setting(name="width 0.5", values={"width": 0.5})
    summary = Result(baseline=BASELINE, settings=(measured(wide), measured(narrow))).summary()
    assert summary.result == summary.settings[0].figures
    assert [item.setting for item in summary.settings] == [wide, narrow]
    written = summary.model_dump(mode="json")
    assert written["result"].keys() == written["baseline"].keys()
    assert written["result"]["latency_ms"] == written["result"]["latencies"][0]
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_summaries_of_before_there_were_settings_are_read() -> None:
    written = Result(baseline=BASELINE, settings=(measured(Setting()),)).summary().model_dump(mode="json", exclude={"settings"})
    assert Summary.model_validate(written).settings == ()


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValidationError):
        figures(float("nan"), 1, 1, latency(1.0))
    with pytest.raises(ValidationError):
        speed(1).model_validate({**speed(1).model_dump(), "speedup": float("inf")})
