"""Rules, board and chart of docs/ and deploy/: they name what the service exposes, and the chart renders where Helm's library is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.settings import Settings
from tests.api.conftest import Client, Server

ROOT = Path(__file__).parents[2]
RULES, BOARD = ROOT / "docs" / "monitoring" / "rules.yaml", ROOT / "docs" / "monitoring" / "grafana.json"
CHART = ROOT / "deploy" / "helm" / "modelpress"


def test_rules_and_board_name_what_is_exposed(server: Server) -> None:
    with Client(server, server.key("metrics", scopes=["metrics:read"])) as client:
        assert client.get("/v1/jobs").status_code == 403
        exposed = set(re.findall(r"^# TYPE (modelpress_\w+)", client.get("/metrics").text, re.MULTILINE))
    text = RULES.read_text() + BOARD.read_text()
    recorded = {rule["record"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "record" in rule}
    asked = set(re.findall(r"modelpress_\w+", text))
    assert len(asked) > 8
    bases = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in exposed}
    assert {name for name in asked if re.sub(r"_(bucket|sum|count|total)$", "", name) not in bases} == set()
    assert set(re.findall(r"modelpress:\w+:\w+", text)) == recorded


def test_the_board_has_a_query_in_every_panel() -> None:
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["targets"] and all(target["expr"] for target in panel["targets"]) for panel in panels)


def test_the_settings_of_the_chart_are_settings() -> None:
    """Names that templates and values set are fields of `Settings`."""
    text = "".join(path.read_text() for path in CHART.rglob("*.*"))
    named = {name.lower() for name in re.findall(r"MODELPRESS_([A-Z_]+[A-Z])", text)}
    assert named <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    "values", [{}, {"ingress": {"enabled": True}, "monitoring": {"enabled": True}, "workers": "scaled"}], ids=["defaults", "everything"]
)
def test_the_chart_renders(values: dict[str, Any]) -> None:
    helm = pytest.importorskip("helm_python", reason="needs Helm's library: pip install helm-python-sdk (75 MB)")
    if values.get("workers") == "scaled":
        scaling = {"enabled": True, "min": 1, "max": 4}
        values = {
            **values,
            "workers": [
                {"name": "cpu", "queue": "cpu", "workSize": "5Gi", "autoscaling": scaling},
                {"name": "gpu", "queue": "gpu", "gpus": 2, "replicas": 0, "workSize": "5Gi"},
            ],
        }
    assert helm.lint(str(CHART))["errors"] == []
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="mp", namespace="there")
    made = [item for name, text in files.items() if name.endswith(".yaml") for item in yaml.safe_load_all(text) if item]
    kinds = {(item["kind"], item["metadata"]["name"]) for item in made}
    assert {("Deployment", "mp-api"), ("Deployment", "mp-inspector"), ("Deployment", "mp-worker-cpu"), ("Job", "mp-migrate-1")} <= kinds
    for item in made:
        if item["kind"] == "Deployment":
            (container,) = item["spec"]["template"]["spec"]["containers"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert item["spec"]["selector"]["matchLabels"].items() <= item["spec"]["template"]["metadata"]["labels"].items()
    if values:
        assert ("ScaledObject", "mp-worker-cpu") in kinds
        gpu = next(item for item in made if item["metadata"]["name"] == "mp-worker-gpu")["spec"]
        assert (gpu["replicas"], gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) == (0, 2)
