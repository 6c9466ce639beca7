"""The mistakes that people make in their first hour: each is answered with its code, its place, a sentence, and what to do."""

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import MODEL_INSPECTION, Client, Server, npz

IMAGES = np.random.default_rng(0).integers(0, 255, (12, 6, 6), dtype=np.uint8)
CLASSES = np.arange(12) % 3
IMAGE_MODEL = {
    **MODEL_INSPECTION,
    "signature": {
        "inputs": [{"name": "image", "shape": [None, 1, 6, 6], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [None, 3], "dtype": "float32"}],
    },
    "macs_count": 10**9,
    "operators": {"Conv": 3, "Relu": 3, "Gemm": 1},
    "trainable": True,
    "layers": [
        {
            "name": f"body.{index}",
            "type": "Conv2d",
            "input_shape": None,
            "output_shape": None,
            "params_count": 4,
            "macs_count": 4,
            "prunable": True,
            "quantizable": True,
        }
        for index in range(3)
    ],
}


@dataclass(frozen=True)
class Home:
    """What a user has at hand: a model of 6×6 images, and ids of its dataset."""

    client: Client
    model: str
    dataset: str

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A valid spec with some keys set; None leaves one out."""
        spec = {"model": self.model, "dataset": self.dataset, **changes}
        return {key: value for key, value in spec.items() if value is not None}

    def validate(self, spec: Any, content_type: str = "application/json") -> httpx.Response:
        """The answer to a spec, given as a document or as text."""
        text = spec if isinstance(spec, str) else json.dumps(spec)
        return self.client.post("/v1/jobs/validate", content=text, headers={"Content-Type": content_type})

    def upload(self, kind: str, content: bytes, **query: str) -> httpx.Response:
        """The answer to an upload."""
        return self.client.post(f"/v1/{kind}", params=query, content=content)

    def stored(self, metadata: dict[str, Any] | None = None, **arrays: Any) -> str:
        """The id of a dataset of one train and one test split, inspected."""
        parts = {key: key.partition(".") for key in arrays}
        named = {f"{parts[key][0]}_{split}{''.join(parts[key][1:])}": value for key, value in arrays.items() for split in ("train", "test")}
        content = npz(**named)
        found = self.client.dataset(content, metadata=json.dumps(metadata or {}))["id"]
        columns = [{"name": key, "shape": list(value.shape[1:]), "dtype": str(value.dtype)} for key, value in arrays.items()]
        self.client.server.inspected(
            found,
            {
                "splits": {name: {"examples_count": 12, "labelled": True} for name in ("train", "test")},
                "columns": columns,
                "classes": [int(item) for item in np.unique(arrays["y"])],
                "labels": True,
                "preview": {},
            },
        )
        return str(found)


@pytest.fixture
def home(client: Client, onnx_bytes: bytes) -> Home:
    """A fresh project with a model and a dataset that fit."""
    model = client.model(onnx_bytes)["id"]
    client.server.inspected(model, IMAGE_MODEL)
    empty = Home(client, model, "")
    return Home(client, model, empty.stored({"preprocessing": {"layout": "NHW"}}, x=IMAGES, y=CLASSES))


PRUNE = {"method": "structured_pruning", "pruning_ratio": 0.5}
Case = tuple[Callable[[Home], httpx.Response], int, str, str | None, str, str]
CASES: dict[str, Case] = {
    "prune as a method": (lambda h: h.validate(h.spec(steps=[{"method": "prune"}])), 200, "union_tag_invalid", "/steps/0/method", "there is no method 'prune'", "'structured_pruning'"),
    "quantize as a method": (lambda h: h.validate(h.spec(steps=[{"method": "quantize"}])), 200, "union_tag_invalid", "/steps/0/method", "there is no method 'quantize'", "'static_quantization'"),
    "a step without method": (lambda h: h.validate(h.spec(steps=[{"pruning_ratio": 0.5}])), 200, "union_tag_not_found", "/steps/0/method", "is required", "structured_pruning"),
    "a step as a text": (lambda h: h.validate(h.spec(steps=["train"])), 200, "model_attributes_type", "/steps/0", "an object is expected, got 'train'", "{method: train}"),
    "a picture as a model": (lambda h: h.upload("models", b"\x89PNG\r\n\x1a\n" + bytes(99), format="onnx"), 415, "unsupported_format", None, "is an image", "POST /v1/datasets"),
    "a table as a model": (lambda h: h.upload("models", b"a,b\n1,2\n3,4\n", format="onnx"), 415, "unsupported_format", None, "those of csv", "POST /v1/datasets"),
    "a dataset as a model": (lambda h: h.upload("models", npz(x_train=IMAGES), format="onnx"), 415, "unsupported_format", None, "those of npz", "POST /v1/datasets"),
    "labels from 1": (lambda h: h.validate(h.spec(dataset=h.stored({"preprocessing": {"layout": "NHW"}}, x=IMAGES, y=CLASSES + 1), steps=[{"method": "train", "epochs": 1}])), 200, "dataset_invalid", "/dataset", "labels from 1 to 3", "store y - 1"),
    "channels last declared first": (lambda h: h.validate(h.spec(dataset=h.stored({"preprocessing": {"layout": "NCHW"}}, x=IMAGES[..., None], y=CLASSES), quantize="int8")), 200, "shape_mismatch", "/dataset", "with layout NCHW (6, 6, 1)", "layout NCHW may be wrong"),
    "broken metadata": (lambda h: h.upload("datasets", npz(x_train=IMAGES), format="npz", metadata="{scale: 1}"), 400, "malformed_request", None, "not JSON", "double quotes"),
    "metadata that is a list": (lambda h: h.upload("datasets", npz(x_train=IMAGES), format="npz", metadata="[1]"), 422, "model_type", "/metadata", "an object is expected, got a list", ""),
    "scales": (lambda h: h.upload("datasets", npz(x_train=IMAGES), format="npz", metadata='{"preprocessing": {"scales": 0.1}}'), 422, "unknown_field", "/metadata/preprocessing/scales", "unknown field 'scales'", "'scale'"),
    "nhw": (lambda h: h.upload("datasets", npz(x_train=IMAGES), format="npz", metadata='{"preprocessing": {"layout": "nhw"}}'), 422, "string_pattern_mismatch", "/metadata/preprocessing/layout", "'nhw'", "NHW"),
    "a file name": (lambda h: h.validate(h.spec(model="net.onnx", quantize="int8")), 200, "string_pattern_mismatch", "/model", "'net.onnx' is no id of a model", "POST /v1/models"),
    "swapped ids": (lambda h: h.validate(h.spec(model=h.dataset, quantize="int8")), 200, "string_pattern_mismatch", "/model", "is the id of a dataset", "mdl_"),
    "a teacher by name": (lambda h: h.validate(h.spec(steps=[{"method": "distillation", "epochs": 1, "teacher": "bert"}])), 200, "string_pattern_mismatch", "/steps/0/teacher", "'bert' is no id of a model", "`baseline`"),
    "80 %": (lambda h: h.validate(h.spec(steps=[{**PRUNE, "pruning_ratio": "80%"}])), 200, "float_parsing", "/steps/0/pruning_ratio", "a number is expected, got '80%'", "0.8"),
    "80": (lambda h: h.validate(h.spec(steps=[{**PRUNE, "pruning_ratio": 80}])), 200, "value_error", "/steps/0/pruning_ratio", "ratios are 0..1, got 80", "0.8"),
    "100 kB": (lambda h: h.validate(h.spec(quantize="int8", constraints={"max_file_bytes": "100kB"})), 200, "int_parsing", "/constraints/max_file_bytes", "'100kB'", "100000"),
    "1.5 MiB": (lambda h: h.validate(h.spec(quantize="int8", constraints={"max_file_bytes": "1.5 MiB"})), 200, "int_parsing", "/constraints/max_file_bytes", "'1.5 MiB'", "1572864"),
    "no model": (lambda h: h.validate(h.spec(model=None, quantize="int8")), 200, "missing", "/model", "is required", "POST /v1/models"),
    "a trailing comma": (lambda h: h.validate('{"model": "m", "quantize": "int8",}'), 400, "malformed_request", None, "line 1 column", "remove the comma"),
    "single quotes": (lambda h: h.validate("{'model': 'm'}"), 400, "malformed_request", None, "line 1 column 2", "double quotes"),
    "a tab in YAML": (lambda h: h.validate("model: m\nsteps:\n\t- x\n", "application/yaml"), 400, "malformed_request", None, "line 3 column 1", "spaces"),
    "three means on one channel": (lambda h: h.validate(h.spec(dataset=h.stored({"preprocessing": {"layout": "NHW", "mean": [0.4, 0.5, 0.6]}}, x=IMAGES, y=CLASSES), quantize="int8")), 200, "dataset_invalid", "/dataset", "mean has 3 numbers", "one number for all channels"),
    "an input of another name": (lambda h: h.validate(h.spec(dataset=h.stored(None, **{"x.picture": IMAGES, "y": CLASSES}), quantize="int8")), 200, "shape_mismatch", "/dataset", "x_<split>.image", "x.picture"),
    "an empty file": (lambda h: h.upload("models", b"", format="onnx"), 415, "unsupported_format", None, "is empty", ""),
    "a timeout at the top": (lambda h: h.validate(h.spec(quantize="int8", timeout_seconds=9)), 200, "extra_forbidden", "/timeout_seconds", "unknown field", "`limits.timeout_seconds`"),
    "a least accuracy of 97": (lambda h: h.validate(h.spec(quantize="int8", constraints={"accuracy": {"min": 97}})), 200, "value_error", "/constraints/accuracy/min", "ratios are 0..1, got 97", "0.97"),
    "an unknown format": (lambda h: h.validate(h.spec(quantize="int8", export=["safetensor"])), 200, "literal_error", "/export/0", "'safetensor' is none of", "'safetensors'"),
    "no dataset": (lambda h: h.validate(h.spec(dataset=None, steps=[{"method": "train", "epochs": 1}])), 200, "dataset_required", "/dataset", "needs a dataset", ""),
    "a layer that is not there": (lambda h: h.validate(h.spec(steps=[{**PRUNE, "include": ["boddy.1"]}])), 200, "layer_not_found", "/steps/0/include/0", "names no layer", "'body.1'"),
    "a body that is packed": (lambda h: h.client.post("/v1/jobs", content=b"\x1f\x8b", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}), 415, "unsupported_media_type", None, "gzip", "as it is"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_mistake(home: Home, name: str) -> None:
    """Code, pointer, sentence, and remedy; nothing of the library that found it."""
    request, status, code, pointer, sentence, remedy = CASES[name]
    answer = request(home)
    assert answer.status_code == status, answer.text
    body = answer.json()
    if pointer is None:
        found = body
    else:
        assert [item["pointer"] for item in body["errors"]] == [pointer], body["errors"]
        found = body["errors"][0]
    assert found["code"] == code
    assert sentence in found["detail"]
    assert remedy in (found.get("hint") or "")
    for word in ("constrained", "discriminator", "Input should", "tuple", "dictionary", "instance of", "function-"):
        assert word not in answer.text


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ({"limits": {"timeout_seconds": 1}, "steps": [{"method": "train", "epochs": 100}]}, "timeout_below_estimate", "ends it after 1 s"),
        (
            {"limits": {"memory_bytes": 256 * 2**20}, "steps": [{"method": "train", "epochs": 1}]},
            "memory_below_estimate",
            "process 256 MiB",
        ),
        ({"quantize": "int8", "constraints": {"max_file_bytes": 90}}, "budget_out_of_reach", "without any weight"),
    ],
)
def test_what_is_possible_and_unwise_warns(home: Home, spec: dict[str, Any], code: str, words: str) -> None:
    """The plan is valid, and says what will not come out."""
    answer = home.validate(home.spec(**spec)).json()
    assert answer["valid"], answer["errors"]
    assert [words in item["message"] for item in answer["warnings"] if item["code"] == code] == [True]


def test_labels_out_of_range_warn_where_no_step_needs_them(home: Home) -> None:
    """Pruning without tuning needs no labels; its accuracy cannot be measured."""
    shifted = home.stored({"preprocessing": {"layout": "NHW"}}, x=IMAGES, y=CLASSES + 1)
    answer = home.validate(home.spec(dataset=shifted, steps=[PRUNE])).json()
    assert answer["valid"], answer["errors"]
    (found,) = (item for item in answer["warnings"] if item["code"] == "labels_out_of_range")
    assert "store y - 1" in found["message"]


def test_an_expired_key(server: Server, client: Client) -> None:
    """401 with what to do, and how to send it."""
    expired = server.key("expired", valid_for=datetime.timedelta(seconds=-1))
    answer = client.get("/v1/models", headers={"Authorization": f"Bearer {expired}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "expired" in answer.text


@pytest.mark.parametrize(
    ("path", "verbs"),
    [("/v1/jobs", {"GET", "HEAD", "POST"}), ("/v1/jobs/job_1", {"DELETE", "GET", "HEAD"}), ("/v1/jobs/validate", {"POST"})],
)
def test_every_verb_of_a_path_is_allowed(client: Client, path: str, verbs: set[str]) -> None:
    """405 names the verbs of all routes of the path, and none of those that take an id in the place of its last word."""
    for verb in {"DELETE", "GET", "PATCH", "PUT"} - verbs:
        answer = client.request(verb, path)
        assert answer.status_code == 405, verb
        assert {verb.strip() for verb in answer.headers["Allow"].split(",")} == verbs


def test_labels_are_found_by_either_separator(home: Home) -> None:
    """`key:value`, `key=value` and `key` find the same job; another value does not."""
    job = home.client.job(home.spec(quantize="int8", labels={"team": "vision", "a=b": "c"}))["id"]
    for query, found in {"team:vision": [job], "team=vision": [job], "team": [job], "team=x": [], "a=b": [job], "a=b:c": [job]}.items():
        answer = home.client.get("/v1/jobs", params={"label": query}).json()
        assert [item["id"] for item in answer["data"]] == found, query
