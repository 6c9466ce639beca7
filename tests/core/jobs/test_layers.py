"""Patterns that name nothing and networks that cannot give are found before a job is accepted."""

from typing import Any

import pytest

from core.database.tables import Model
from core.jobs.layers import layer_errors, layer_warnings
from engine.contract.spec import parse

PRUNE = {"method": "structured_pruning", "pruning_ratio": 0.5}


def layer(name: str, *, params: int = 100, channels: bool | None = True, kind: str = "Linear") -> dict[str, Any]:
    reason = None if channels else f"{name} stays."
    return {
        "name": name,
        "type": kind,
        "params_count": params,
        "quantizable": channels is not None,
        "channels_prunable": channels,
        "channels_reason": reason,
    }


LAYERS = [layer("body.0"), layer("act", channels=None, params=0, kind="ReLU"), layer("body.1", params=4), layer("head", channels=False)]


def looked(steps: list[dict[str, Any]], layers: list[dict[str, Any]] | None = None) -> tuple[list[Any], list[Any]]:
    spec, problems = parse({"model": "mdl_1", "dataset": "ds_1", "steps": steps})
    assert spec is not None, problems
    model = Model(id="mdl_1", inspection={"layers": LAYERS if layers is None else layers})
    return [(error.pointer, error.code) for error in layer_errors(spec, model)], [
        found[:1] + found[2:] for found in layer_warnings(spec, model)
    ]


@pytest.mark.parametrize(
    ("steps", "errors", "warned"),
    [
        ([PRUNE], [], []),
        ([{**PRUNE, "include": ["body.*"]}], [], []),
        ([{**PRUNE, "include": ["tail.*"]}], [("/steps/0/include/0", "layer_not_found"), ("/steps/0", "pruning_impossible")], []),
        ([{**PRUNE, "include": ["head"]}], [("/steps/0", "pruning_impossible")], [("layers_not_removable", 0)]),
        ([{**PRUNE, "include": ["head", "body.0"]}], [], [("layers_not_removable", 0)]),
        ([{**PRUNE, "ignore": ["body.*"]}], [("/steps/0", "pruning_impossible")], []),
        ([{**PRUNE, "ignore": ["tail.*"]}], [], [("pattern_names_nothing", 0)]),
        ([{**PRUNE, "ignore": ["re:.*"]}], [], []),
        ([{**PRUNE, "include": ["re:head"]}], [], [("layers_not_removable", 0)]),
        ([{"method": "magnitude_pruning", "sparsity": 0.9, "scope": "layer"}], [], [("layers_would_be_empty", 0)]),
        ([{"method": "magnitude_pruning", "sparsity": 0.5, "scope": "layer"}], [], []),
        ([{"method": "magnitude_pruning", "sparsity": 0.9, "scope": "global"}], [], []),
        ([{"method": "distillation", "epochs": 1}, {**PRUNE, "include": ["head"]}], [("/steps/1", "pruning_impossible")], [("layers_not_removable", 1)]),
        ([{"method": "static_quantization"}], [], []),
    ],
)  # fmt: skip
def test_what_is_found(steps: list[dict[str, Any]], errors: list[Any], warned: list[Any]) -> None:
    assert looked(steps) == (errors, warned)


def test_a_network_of_which_nothing_can_go_gives_its_reasons() -> None:
    spec, _ = parse({"model": "mdl_1", "dataset": "ds_1", "steps": [PRUNE]})
    assert spec is not None
    (error,) = layer_errors(spec, Model(id="mdl_1", inspection={"layers": [layer("head", channels=False), layer("other", channels=False)]}))
    assert "head stays. other stays." in error.detail
    assert not list(layer_errors(spec, Model(id="mdl_1", inspection=None)))
    older = [{key: value for key, value in layer("head").items() if not key.startswith("channels")}]
    assert not list(layer_errors(spec, Model(id="mdl_1", inspection={"layers": older})))
