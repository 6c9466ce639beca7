"""What the operator's figures, the readiness check and the plan of a spec read, on both databases."""

from datetime import timedelta
from typing import Any

import pytest

from core import jobs
from core.database import clock
from core.errors import NotFound
from core.jobs import NewEvent, Point, Report, estimates, planning, worker_registry
from core.operations import health, statistics
from core.service import Service
from engine.contract.cost import MASKED_COPIES
from tests.core.conftest import World


def test_series_are_thinned_out_in_the_database(world: World) -> None:
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        points = [Point("loss", float(step), step) for step in range(101)] + [Point("other", 1.0, 0, unit="s", step_index=0)]
        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60, report=Report(metrics=points))
    with world.service.database.reader() as session:
        every = jobs.series(session, claim.job_id, max_points=101)
        thin = jobs.series(session, claim.job_id, names=["loss"], max_points=11)
    assert [(item["name"], item["unit"], item["step_index"], len(item["points"])) for item in every] == [
        ("loss", None, None, 101),
        ("other", "s", 0, 1),
    ]
    assert [step for step, _ in thin[0]["points"]] == list(range(0, 101, 10))


def test_events_are_filtered_by_type(world: World) -> None:
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        report = Report(events=[NewEvent("phase", {"phase": "a"}), NewEvent("warning", {"code": "c"}), NewEvent("phase", {"phase": "b"})])
        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60, report=report)
    with world.service.database.reader() as session:
        assert [event.data["phase"] for event in jobs.events(session, claim.job_id, types=["phase"])] == ["a", "b"]


def test_jobs_are_counted_by_status_and_as_they_end(world: World) -> None:
    with world.service.database.reader() as session:
        began = clock.now(session)
    world.submit()
    claim = world.running(priority=1)
    with world.service.database.unit_of_work() as session:
        events = [NewEvent(kind, {"step_index": 0, "method": "magnitude_pruning"}) for kind in ("step_started", "step_finished")]
        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60, report=Report(events=events))
    with world.service.database.reader() as session:
        assert statistics.jobs_by_status(session) == {("cpu", "queued"): 1, ("cpu", "running"): 1}
        assert statistics.finished_since(session, began) == ([], began)
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
    with world.service.database.reader() as session:
        found, moment = statistics.finished_since(session, began)
    assert [(job.job_id, job.status, job.methods) for job in found] == [(claim.job_id, "succeeded", ("magnitude_pruning",))]
    assert found[0].queue_seconds >= 0
    assert [method for method, _ in found[0].steps] == ["magnitude_pruning"]
    with world.service.database.reader() as session:
        assert statistics.finished_since(session, moment + timedelta(microseconds=1))[0] == []


def test_workers_are_present_while_they_say_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(queue: str) -> int:
        with service.database.reader() as session:
            return worker_registry.count(session, queue)

    with service.database.unit_of_work() as session:
        worker_registry.note(session, "cpu", "host-1:10")
        worker_registry.note(session, "cpu", "host-2:10")
        worker_registry.note(session, "cpu_large", "host-3:10")
    assert (count("cpu"), count("cpu_large"), count("cp_")) == (2, 1, 0)
    with service.database.unit_of_work() as session:
        worker_registry.leave(session, "cpu", "host-1:10")
    assert count("cpu") == 1
    monkeypatch.setattr(worker_registry, "PRESENT_SECONDS", -1)
    with service.database.unit_of_work() as session:
        worker_registry.note(session, "cpu", "host-2:10")
    assert count("cpu") == 0


def test_health_is_that_of_the_worst_part(service: Service) -> None:
    found = health.check(service)
    assert found["status"] == "degraded"
    assert found["checks"]["database"] == {"status": "ok", "detail": None}
    with service.database.unit_of_work() as session:
        for queue in ("cpu", "inspect"):
            worker_registry.note(session, queue, "w")
    assert health.check(service)["status"] == "ok"
    with service.database.unit_of_work() as session:
        worker_registry.note(session, "cpu", "w", trouble="the disk of the work folder is full")
        assert worker_registry.capacities(session, "cpu") == set()
    found = health.check(service)
    assert found["checks"]["workers"]["status"] == "degraded"
    assert "no worker serves cpu" in found["checks"]["workers"]["detail"]
    assert "the disk of the work folder is full" in found["checks"]["workers"]["detail"]
    with service.database.unit_of_work() as session:
        worker_registry.note(session, "cpu", "w")
    assert health.check(service)["status"] == "ok"


def _verdict(world: World, **more: Any) -> dict[str, Any]:
    with world.service.database.reader() as session:
        return planning.validate(session, world.service.settings, world.project_id, jobs.Submission.read(world.spec(**more)))


def _inspections(world: World, model: dict[str, Any], dataset: dict[str, Any], declared: dict[str, Any] | None = None) -> None:
    """What was found in both files; `declared` is the dataset's metadata."""
    with world.service.database.unit_of_work() as session:
        for stale, found in ((world.model, model), (world.dataset, dataset)):
            row = session.get_one(type(stale), stale.id)
            row.inspection = {"trainable": True, "labels": True, **found}
        if declared is not None:
            session.get_one(type(world.dataset), world.dataset.id).declared = declared


LAYERS = [{"input_shape": [None, 100], "output_shape": [None, 20_000]}, {"input_shape": [None, 20_000], "output_shape": [None, 10]}]
MODEL: dict[str, Any] = {
    "signature": {"inputs": [{"name": "x", "shape": [None, 100], "dtype": "float32"}], "outputs": [{"name": "y", "shape": [None, 10]}]},
    "macs_count": 1_000_000,
    "params_count": 50_000,
    "activation_bytes": 500_000,
    "layers": LAYERS,
}
DATASET = {"splits": {"train": {"examples_count": 10_000}, "test": {"examples_count": 1_000}}}


def test_the_estimate_grows_with_what_the_job_does(world: World) -> None:
    assert _verdict(world)["estimate"] == {"duration_seconds": None, "peak_memory_bytes": None}
    _inspections(world, MODEL, DATASET)
    short = _verdict(world)["estimate"]
    tuned = _verdict(world, steps=[{"method": "magnitude_pruning", "finetune": {"epochs": 10}}])["estimate"]
    rounds = _verdict(world, steps=[{"method": "magnitude_pruning", "schedule": "iterative", "iterations": 4, "finetune": {"epochs": 10}}])
    longer = rounds["estimate"]
    iterations = _verdict(world, steps=[{"method": "magnitude_pruning", "finetune": {"iterations": 1000, "batch_size": 100}}])["estimate"]
    assert short["duration_seconds"] < tuned["duration_seconds"] < longer["duration_seconds"]
    assert iterations["duration_seconds"] == tuned["duration_seconds"]
    computed = 4 * 10 * 10_000 * 3e6 / estimates.RATES[0][1]
    stepped = 4 * 10 * (10_000 / 64) * MASKED_COPIES * 4 * 50_000 / estimates.STEPPED_BYTES_PER_SECOND
    assert rounds["plan"][0]["duration_seconds"] == pytest.approx(computed + stepped, rel=0.01)


def _peak(world: World, *steps: dict[str, Any], **more: Any) -> Any:
    return _verdict(world, steps=list(steps), **more)["estimate"]["peak_memory_bytes"]


def test_memory_is_estimated_by_what_is_there_at_one_time(world: World) -> None:
    _inspections(world, MODEL, DATASET)
    one = MODEL["activation_bytes"] + 2 * 4 * 20_100  # of an example in training
    layer = 2 * 4 * 20_100 + 8 * 4 * 10  # in evaluation
    prune = {"method": "magnitude_pruning"}
    tuned = [_peak(world, {**prune, "finetune": {"epochs": 1, "batch_size": size}}) for size in (512, 1024, 100_000 // 4)]
    assert tuned[1] - tuned[0] == 512 * one
    assert tuned[2] - tuned[1] == (10_000 - 1024) * one, "a batch holds no more examples than there are"
    assert _peak(world, {**prune, "finetune": {"epochs": 1, "batch_size": 512}}, {"method": "static_quantization"}) == tuned[0]
    aware = _peak(world, {"method": "quantization_aware_training", "epochs": 1, "batch_size": 512})
    assert aware - tuned[0] == 512 * one, "fake quantization keeps each value twice"
    untouched = [_peak(world, prune, evaluation={"batch_size": size}) for size in (100, 200)]
    assert untouched[1] - untouched[0] == 100 * layer
    static, dynamic = (_peak(world, {"method": f"{kind}_quantization"}, evaluation={"batch_size": 1}) for kind in ("static", "dynamic"))
    assert static - dynamic == min(128 * 2**20, 300 * 4 * 20_010) - layer
    assert untouched[0] - dynamic > 200 * 2**20, "torch is loaded for it"


OPEN = {
    **MODEL,
    "signature": {**MODEL["signature"], "inputs": [{"name": "x", "shape": [None, None], "dtype": "float32"}]},
    "macs_count": None,
    "open_sizes": {"inputs": {"x": [100]}, "macs_count": 1_000_000},
}


def test_open_sizes_are_those_of_the_dataset(world: World) -> None:
    step = {"method": "train", "epochs": 20}

    def estimate(model: dict[str, Any], size: int | None) -> dict[str, Any]:
        _inspections(world, model, {**DATASET, "columns": [{"name": "x", "shape": [size], "dtype": "float32"}]})
        found: dict[str, Any] = _verdict(world, steps=[step])["estimate"]
        return found

    fixed, same, longer = estimate(MODEL, 100), estimate(OPEN, 100), estimate(OPEN, 300)
    assert same == fixed
    whole = longer["duration_seconds"] - 3 * same["duration_seconds"]
    assert abs(whole) < 0.1 * longer["duration_seconds"] + 3 * 6, "three times the operations, on top of what is there in any case"
    kept = MODEL["activation_bytes"] + 2 * 4 * 20_100
    assert longer["peak_memory_bytes"] - same["peak_memory_bytes"] == 2 * 64 * kept
    assert estimate(OPEN, None) == {"duration_seconds": None, "peak_memory_bytes": None}


@pytest.mark.parametrize("missing", ["activation_bytes", "splits"])
def test_memory_that_is_not_known_is_not_stated(world: World, missing: str) -> None:
    model, dataset = ({key: value for key, value in found.items() if key != missing} for found in (MODEL, DATASET))
    _inspections(world, model, dataset)
    assert _peak(world, {"method": "train", "epochs": 1}) is None
    assert _peak(world, {"method": "dynamic_quantization"}) is not None


def test_warnings_say_what_to_expect(world: World) -> None:
    _inspections(world, MODEL, {**DATASET, "splits": {**DATASET["splits"], "train": {"examples_count": 20}}})
    verdict = _verdict(world, steps=[{"method": "magnitude_pruning"}, {"method": "static_quantization"}], constraints={"min_speedup": 2.0})
    assert [(warning["code"], warning["step_index"]) for warning in verdict["warnings"]] == [
        ("no_dense_speedup", 0),
        ("speed_depends_on_hardware", 1),
        ("few_calibration_examples", 1),
    ]


def test_what_a_job_found_out_about_model_and_dataset_is_told_before_the_next(world: World) -> None:
    chance = {"code": "baseline_near_chance", "message": "It knows nothing.", "step_index": None, "details": {}}
    claim = world.running()
    with world.service.database.unit_of_work() as session:
        slower = {**chance, "code": "latency_regressed"}
        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60, report=Report(warnings=[chance, slower]))
    usual = _verdict(world)["warnings"]
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})
    assert _verdict(world)["warnings"] == [*usual, {**chance, "details": {"job_id": claim.job_id}}]


def test_what_is_wrong_is_listed_and_nothing_is_raised(world: World) -> None:
    wrong = _verdict(world, steps=[{"method": "magnitude_pruning", "sparsity": 2}])
    assert (wrong["valid"], wrong["normalized_spec"], wrong["plan"]) == (False, None, [])
    unlabelled = {**DATASET, "labels": False}
    _inspections(world, MODEL, unlabelled)
    verdict = _verdict(world, steps=[{"method": "magnitude_pruning", "finetune": {"epochs": 1}}])
    assert (verdict["valid"], [error["code"] for error in verdict["errors"]]) == (False, ["labels_required"])
    assert verdict["plan"][0]["method"] == "magnitude_pruning"
    with pytest.raises(NotFound):
        _verdict(world, model="mdl_unknown")


def _signature(*inputs: list[int | None], outputs: int | None = 10) -> dict[str, Any]:
    return {
        "signature": {
            "inputs": [{"name": f"in{index}", "shape": [None, *shape], "dtype": "float32"} for index, shape in enumerate(inputs)],
            "outputs": [{"name": "out", "shape": [None, outputs], "dtype": "float32"}],
        }
    }


def _columns(**shapes: list[int]) -> dict[str, Any]:
    return {"columns": [{"name": name.replace("_", "."), "shape": shape, "dtype": "uint8"} for name, shape in shapes.items()]}


@pytest.mark.parametrize(
    ("model", "dataset", "code"),
    [
        (_signature([1, 28, 28]), _columns(x=[1, 28, 28]), None),
        (_signature([1, 28, 28]), _columns(x=[28, 28]), "shape_mismatch"),
        (_signature([1, 28, 28]), _columns(x=[20, 20]), "shape_mismatch"),
        (_signature([3, None, None]), _columns(x=[3, 20, 20]), None),
        (_signature([3, None, None]), _columns(x=[20, 20]), "shape_mismatch"),
        (_signature([4], [5]), _columns(x_in0=[4], x_in1=[5]), None),
        (_signature([4], [5]), _columns(x_in0=[4]), "shape_mismatch"),
        (_signature([4], [5]), _columns(x=[4]), "shape_mismatch"),
        (_signature([4]), {**_columns(x=[4]), "classes": [0, 9]}, None),
        (_signature([4]), {**_columns(x=[4]), "classes": [0, 10]}, "dataset_invalid"),
        (_signature([4]), {**_columns(x=[4]), "classes": [str(item) for item in range(11)]}, "dataset_invalid"),
        (_signature([4], outputs=None), {**_columns(x=[4]), "classes": [0, 10]}, None),
        ({}, _columns(x=[4]), None),
    ],
)
def test_a_dataset_fits_a_model_or_is_refused(world: World, model: dict[str, Any], dataset: dict[str, Any], code: str | None) -> None:
    _inspections(world, model, dataset)
    trained = {"steps": [{"method": "magnitude_pruning", "finetune": {"epochs": 1}}]}
    assert {error["code"] for error in _verdict(world, **trained)["errors"]} == ({code} if code else set())
    untrained = code if code != "dataset_invalid" else None  # labels of any kind refuse no method that needs none
    assert {error["code"] for error in _verdict(world)["errors"]} == ({untrained} if untrained else set())


@pytest.mark.parametrize(
    ("stored", "preprocessing", "code"),
    [
        ("uint8", None, None),
        ("float64", None, "dataset_invalid"),
        ("uint8", {"scale": 0.5}, "dataset_invalid"),
        ("uint8", {"layout": "NL"}, None),
    ],
)
def test_an_input_of_integers_takes_integers_as_they_are(world: World, stored: str, preprocessing: Any, code: str | None) -> None:
    model = _signature([4])
    model["signature"]["inputs"][0]["dtype"] = "int64"
    _inspections(world, model, {"columns": [{"name": "x", "shape": [4], "dtype": stored}]}, {"preprocessing": preprocessing})
    assert {error["code"] for error in _verdict(world)["errors"]} == ({code} if code else set())
