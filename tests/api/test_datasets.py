"""Datasets over HTTP, where they differ from models."""

import json
from typing import Any

import pytest

from tests.api.conftest import DATASET_INSPECTION, Client, Server, problem


def test_a_dataset_is_described_by_its_inspection(client: Client, server: Server, npz_bytes: bytes) -> None:
    dataset = client.dataset(npz_bytes)
    assert dataset["splits"] is None
    server.inspected(dataset["id"], DATASET_INSPECTION)
    found = client.get(dataset["urls"]["self"]).json()
    assert found["status"] == "ready"
    assert {key: found[key] for key in ("splits", "columns", "classes", "labels")} == {
        key: DATASET_INSPECTION[key] for key in ("splits", "columns", "classes", "labels")
    }
    assert client.get(dataset["urls"]["content"]).content == npz_bytes


@pytest.mark.parametrize(
    "preprocessing",
    [{"scale": 0.00392, "mean": 0.13, "std": [0.3], "layout": "NHW"}, {"x": {"scale": 0.5}, "y": {}}],
)
def test_preprocessing_is_kept_as_declared(client: Client, npz_bytes: bytes, preprocessing: dict[str, Any]) -> None:
    dataset = client.dataset(npz_bytes, metadata=json.dumps({"preprocessing": preprocessing}))
    assert dataset["metadata"] == {"preprocessing": preprocessing}


@pytest.mark.parametrize(
    ("preprocessing", "pointer"),
    [
        ({"scal": 1}, "/metadata/preprocessing/scal"),
        ({"std": 0}, "/metadata/preprocessing/std"),
        ({"layout": "HW"}, "/metadata/preprocessing/layout"),
        ({"x": {"scale": "a"}}, "/metadata/preprocessing/x/scale"),
        (5, "/metadata/preprocessing"),
    ],
)
def test_preprocessing_that_is_wrong_is_pointed_at(client: Client, npz_bytes: bytes, preprocessing: Any, pointer: str) -> None:
    answer = client.post("/v1/datasets", params={"metadata": json.dumps({"preprocessing": preprocessing})}, content=npz_bytes)
    assert problem(answer, 422, "invalid_metadata")["errors"][0]["pointer"] == pointer


def test_the_preview_shows_the_first_examples(client: Client, server: Server, npz_bytes: bytes) -> None:
    dataset = client.dataset(npz_bytes)
    path = dataset["urls"]["preview"]
    problem(client.get(path), 409, "not_inspected")
    server.inspected(dataset["id"], DATASET_INSPECTION)
    preview = client.get(path).json()
    assert preview["splits"] == {"train": DATASET_INSPECTION["preview"]["train"], "test": DATASET_INSPECTION["preview"]["test"]}
    one = client.get(path, params={"split": "test", "limit": 2}).json()
    assert one["splits"] == {"test": DATASET_INSPECTION["preview"]["test"][:2]}
    assert "'test'" in problem(client.get(path, params={"split": "tst"}), 422, "invalid_parameter")["hint"]


def test_a_failed_inspection_says_why(client: Client, server: Server, npz_bytes: bytes) -> None:
    dataset = client.dataset(npz_bytes)
    server.inspected(dataset["id"], None, {"code": "dataset_invalid", "category": "user", "message": "label 7 of 3 classes"})
    assert problem(client.get(dataset["urls"]["preview"]), 422, "dataset_invalid")["detail"] == "label 7 of 3 classes"


def test_deleting_removes_it_from_sight(client: Client, npz_bytes: bytes) -> None:
    dataset = client.dataset(npz_bytes)
    assert client.delete(dataset["urls"]["self"]).status_code == 204
    problem(client.delete(dataset["urls"]["self"]), 404, "not_found")
    assert client.get("/v1/datasets").json()["data"] == []
