"""The spec says what is wrong, where, and what to do, and its identity is what it says beyond the defaults."""

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.findings import MOST_PROBLEMS
from engine.contract.method import catalogue
from engine.contract.spec import Spec, json_schema, parse

SPEC: dict[str, Any] = {
    "name": "digits, four times smaller",
    "model": "mdl_1",
    "dataset": "ds_1",
    "steps": [
        {"id": "p", "method": "structured_pruning", "pruning_ratio": 0.5, "scope": "global", "finetune": {"epochs": 3}},
        {"id": "d", "method": "distillation", "teacher": "baseline", "temperature": 4.0, "alpha": 0.9, "epochs": 5},
        {"id": "q", "method": "static_quantization", "scheme": "W8A8", "calibration": {"samples": 300}},
    ],
    "constraints": {"accuracy": {"metric": "top1", "max_drop": 0.01}, "max_file_bytes": 200_000},
    "export": ["onnx", "safetensors"],
}


def with_changes(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(SPEC) | changes


def only_problem(document: Any) -> tuple[str, str, str | None]:
    spec, problems = parse(document)
    assert spec is None
    assert len(problems) == 1, problems
    return problems[0].pointer, problems[0].detail, problems[0].hint


def test_normalized_spec_is_the_same_spec() -> None:
    spec, problems = parse(SPEC)
    assert spec is not None, problems
    again = Spec.model_validate(spec.normalized())
    assert again == spec
    assert again.spec_hash() == spec.spec_hash()
    assert spec.normalized()["steps"][2]["calibration"]["observer"] == "minmax"


@pytest.mark.parametrize(
    "step",
    [
        {"method": "magnitude_pruning"},
        {"method": "magnitude_pruning", "pattern": "2:4"},
        {"method": "lottery_ticket", "training": {"epochs": 1}},
        {"method": "lottery_ticket", "training": {"epochs": 1}, "sparsity": 0.9},
        {"method": "structured_pruning"},
        {"method": "structured_pruning", "budget": {"macs_ratio": 0.5}},
        {"method": "supermask", "algorithm": "edge_popup", "epochs": 1},
    ],
    ids=str,
)
def test_of_two_ways_to_say_something_the_one_that_was_not_chosen_is_not_written_out(step: dict[str, Any]) -> None:
    """A worker is given the normalized spec: a default written beside its alternative would be refused there."""
    spec, problems = parse(with_changes(steps=[step]))
    assert spec is not None, problems
    again, problems = parse(spec.normalized())
    assert again == spec, problems


def test_hash_ignores_written_out_defaults_and_names_but_not_values() -> None:
    plain = Spec.model_validate(SPEC).spec_hash()
    assert Spec.model_validate(with_changes(seed=0, name="other", labels={"team": "vision"})).spec_hash() == plain
    assert Spec.model_validate(with_changes(seed=1)).spec_hash() != plain
    swapped = with_changes(steps=[{"method": "magnitude_pruning"}])
    dynamic = with_changes(steps=[{"method": "dynamic_quantization"}])
    assert Spec.model_validate(swapped).spec_hash() != Spec.model_validate(dynamic).spec_hash()


@pytest.mark.parametrize(("dataset", "method"), [("ds_1", "int8_quantization"), (None, "dynamic_quantization")])
def test_quantize_int8_stands_for_the_step_that_the_data_allows(dataset: str | None, method: str) -> None:
    spec, problems = parse({"model": "mdl_1", "dataset": dataset, "quantize": "int8"})
    assert spec is not None, problems
    assert [step.wire_name() for step in spec.steps] == [method]


def test_percentages_are_refused_with_the_ratio_that_was_meant() -> None:
    pointer, detail, hint = only_problem(with_changes(steps=[{"method": "structured_pruning", "pruning_ratio": 50}]))
    assert pointer == "/steps/0/pruning_ratio"
    assert "50" in detail
    assert hint == "did you mean 0.5?"


def test_unknown_fields_get_the_closest_known_one() -> None:
    pointer, _, hint = only_problem(with_changes(steps=[{"method": "structured_pruning", "finetun": {"epochs": 1}}]))
    assert pointer == "/steps/0/finetun"
    assert hint == "did you mean 'finetune'?"
    nested = with_changes(steps=[{"method": "structured_pruning", "finetune": {"epochs": 1, "learning_rat": 0.1}}])
    assert only_problem(nested)[2] == "did you mean 'learning_rate'?"


def test_unknown_method_gets_the_closest_known_one() -> None:
    pointer, _, hint = only_problem(with_changes(steps=[{"method": "static_quantisation"}]))
    assert pointer == "/steps/0/method"
    assert hint == "did you mean 'static_quantization'?"


@pytest.mark.parametrize("later", ["structured_pruning", "magnitude_pruning", "static_quantization", "dynamic_quantization"])
def test_nothing_follows_quantization(later: str) -> None:
    document = with_changes(steps=[{"method": "static_quantization"}, {"method": later}])
    pointer, detail, _ = only_problem(document)
    assert pointer == "/steps/1/method"
    assert "put quantization last" in detail


def test_channels_are_removed_before_weights_are_zeroed() -> None:
    document = with_changes(steps=[{"method": "magnitude_pruning"}, {"method": "structured_pruning"}])
    assert "put structured_pruning first" in only_problem(document)[1]


def test_steps_that_need_data_ask_for_a_dataset() -> None:
    spec, problems = parse(with_changes(dataset=None))
    assert spec is None
    assert {problem.pointer for problem in problems} == {"/dataset"}
    assert {problem.code for problem in problems} == {"dataset_required"}
    assert len(problems) == 4


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"steps": []}, "/steps"),
        ({"steps": [{"method": "structured_pruning", "pruning_ratio": 0.5, "budget": {"macs_ratio": 0.5}}]}, "/steps/0"),
        ({"steps": [{"method": "distillation"}]}, "/steps/0"),
        ({"steps": [{"method": "distillation", "epochs": 1, "iterations": 1}]}, "/steps/0"),
        ({"steps": [{"method": "magnitude_pruning", "pattern": "4:2"}]}, "/steps/0"),
        ({"steps": [{"method": "magnitude_pruning", "sparsity": 1.0}]}, "/steps/0/sparsity"),
        ({"steps": [{"id": "a", "method": "magnitude_pruning"}] * 2}, "/steps/0/id"),
        ({"constraints": {"accuracy": {"metric": "top1"}}}, "/constraints/accuracy"),
        ({"constraints": {"accuracy": {"metric": "top1", "max_drop": 5}}}, "/constraints/accuracy/max_drop"),
        ({"model": "../etc/passwd"}, "/model"),
        ({"seed": float("nan")}, "/seed"),
    ],
)
def test_nonsense_points_at_the_field(changes: dict[str, Any], pointer: str) -> None:
    spec, problems = parse(with_changes(**changes))
    assert spec is None
    assert pointer in {problem.pointer for problem in problems}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["steps", "model", "method", "epochs", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_document_gets_a_spec_or_problems(document: Any) -> None:
    spec, problems = parse(document)
    assert (spec is None) == bool(problems)
    assert all(problem.detail for problem in problems)


def test_schema_lists_every_method() -> None:
    mapping = json_schema()["properties"]["steps"]["items"]["discriminator"]["mapping"]
    assert sorted(mapping) == list(catalogue())


def test_spec_and_catalogue_load_no_torch() -> None:
    code = "import sys, engine.contract.spec; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_of_many_problems_a_hundred_are_told_and_the_rest_counted() -> None:
    spec, problems = parse({**SPEC, **{f"field_{number}": 1 for number in range(5000)}})
    assert spec is None
    assert len(problems) == MOST_PROBLEMS
    assert problems[0].detail == "unknown field 'field_0'"
    assert (problems[-1].code, problems[-1].detail) == ("more_problems", "4901 further problems are not listed")
    _, problems = parse({**SPEC, **{f"field_{number}": 1 for number in range(MOST_PROBLEMS)}})
    assert [problem.code for problem in problems] == ["extra_forbidden"] * MOST_PROBLEMS


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ({"method": "weight_only_quantization", "symmetric": 0}, "bool_type"),
        ({"method": "weight_only_quantization", "symmetric": "yes"}, "bool_type"),
        ({"method": "static_quantization", "calibration": {"samples": True}}, "int_type"),
        ({"method": "static_quantization", "calibration": {"samples": "300"}}, "int_type"),
        ({"method": "static_quantization", "calibration": {"percentile": "99"}}, "float_type"),
        ({"method": "structured_pruning", "pruning_ratio": "0.5"}, "float_type"),
        ({"method": "structured_pruning", "pruning_ratio": True}, "float_type"),
        ({"method": "structured_pruning", "pruning_ratio": {"conv*": "0.5"}}, "float_type"),
    ],
)
def test_a_value_of_another_json_type_is_refused(step: dict[str, Any], code: str) -> None:
    """`true` would be one epoch, and `0` no: whoever wrote it meant something else."""
    spec, problems = parse({"model": "mdl_a", "dataset": "ds_a", "steps": [step]})
    assert spec is None
    assert [problem.code for problem in problems] == [code]


def test_a_whole_number_may_have_a_point() -> None:
    spec, problems = parse({"model": "mdl_a", "dataset": "ds_a", "seed": 3.0, "steps": [{"method": "train", "epochs": 2.0}]})
    assert problems == []
    assert spec is not None
    assert (spec.seed, spec.steps[0].epochs) == (3, 2)  # type: ignore[attr-defined]
