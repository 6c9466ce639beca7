"""A newcomer types what README and docs say, from the top and twice; what they type works each time."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from modelpress import Client
from tests.service.test_readme import ROOT, TEXT, checkout, run

__all__ = ["checkout"]
EXAMPLES = ROOT / "examples"
METADATA = EXAMPLES / "digits.metadata.json"


def commands(text: str, program: str) -> list[str]:
    """Lines of consoles that call a program."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        line.removeprefix("$ ").partition("  #")[0].strip()
        for block in blocks
        for line in block.splitlines()
        if line.startswith(f"$ {program} ")
    ]


def python_of(name: str) -> str:
    """The first Python example of a document."""
    (code, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)
    return str(code)


@pytest.fixture
def desk(checkout: Path, service_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents name, and the address of the service."""
    (checkout / "net.onnx").symlink_to(EXAMPLES / "digits.onnx")
    (checkout / "data.npz").symlink_to(EXAMPLES / "digits.npz")
    monkeypatch.setenv("MODELPRESS_URL", service_url)
    return checkout


def test_the_commands_of_the_readme_run_twice(desk: Path) -> None:
    (compress,) = commands(TEXT, "modelpress compress")
    for _ in range(2):
        run(["bash", "-euo", "pipefail", "-c", compress], desk)
        assert json.loads((desk / "build" / "int8" / "report.json").read_text())["outcome"] == "constraints_met"


def test_a_key_is_made_twice_where_the_readme_says(checkout: Path) -> None:
    """Each is a key of its own in the same data; without the folder nothing is made anywhere."""
    (line,) = re.findall(r"`(modelpress keys create [^`]*)`", TEXT)
    tokens = {run(line.split(), checkout).split()[-1] for _ in range(2)}
    assert len(tokens) == 2
    assert (checkout / "data" / "modelpress.db").exists()
    bare = line.replace(" --data-dir data", "").split()
    (checkout / "elsewhere").mkdir()
    refused = subprocess.run(
        [str(Path(sys.executable).parent / bare[0]), *bare[1:]], cwd=checkout / "elsewhere", capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert list((checkout / "elsewhere").iterdir()) == []


def test_the_example_of_the_client_runs_twice(desk: Path, service_url: str) -> None:
    code = python_of("client.md").replace('"https://models.example", "mp_…"', f'"{service_url}"')
    code = code.replace('{"preprocessing": {"scale": 1 / 255, "layout": "NHWC"}}', METADATA.read_text())
    for _ in range(2):
        run([sys.executable, "-c", code.replace("on_event=print", "on_event=lambda event: None")], desk)
        assert (desk / "out" / "model.onnx").stat().st_size < (desk / "net.onnx").stat().st_size


def test_the_command_of_a_pipeline_runs(desk: Path, service_url: str) -> None:
    (command,) = commands((ROOT / "docs" / "pipelines.md").read_text(), "modelpress compress")
    assert "https://models.example" in command
    run(["bash", "-euc", command.replace("https://models.example", service_url) + f" --data-metadata {METADATA}"], desk)
    assert (desk / "out" / "model.onnx").exists()


def test_the_readmes_run_without_a_service(checkout: Path) -> None:
    """The line as it stands; the files that it names hold few examples and one epoch, and more may be lost by that."""
    (checkout / "examples").unlink()
    shutil.copytree(EXAMPLES, checkout / "examples")
    spec, data = checkout / "examples" / "digits.yaml", checkout / "examples" / "digits.npz"
    spec.write_text(spec.read_text().replace("epochs: 5", "epochs: 1").replace("max_drop: 0.001", "max_drop: 0.9"))
    with numpy.load(data) as whole:
        numpy.savez(data.with_name("few.npz"), **{name: whole[name][:600] for name in whole.files})
    data.with_name("few.npz").replace(data)
    (line,) = commands(TEXT, "modelpress run")
    run(["bash", "-euc", line], checkout)
    assert (checkout / "build" / "digits" / "model.onnx").stat().st_size < 131_072
    assert json.loads((checkout / "build" / "digits" / "report.json").read_text())["outcome"] == "constraints_met"


RECEIVER = """
import json, time
from modelpress.resources import signatures

kept, handled, known = [], [], []
keep, handle = kept.append, handled.append


def seen(message_id):
    known.append(message_id)
    return message_id in known[:-1]


"""
RECEIVED = """
(secret,) = kept
moment = int(time.time())
signed = {"webhook-id": "msg_1", "webhook-timestamp": str(moment), "webhook-signature": signatures.signature(secret, "msg_1", moment, b"{}")}
for _ in range(2):
    receive(signed, b"{}")
assert handled == [{}], handled
"""
"""What the example of a receiver takes for granted, and a message that comes twice."""


def test_the_examples_of_webhooks(service_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver takes what is signed, once; an MLflow server is named; the message is the one that is sent."""
    monkeypatch.setenv("MODELPRESS_URL", service_url)
    text = (ROOT / "docs" / "webhooks.md").read_text()
    run([sys.executable, "-c", RECEIVER + python_of("webhooks.md") + RECEIVED], ROOT)
    (line,) = commands(text, "curl")
    made = json.loads(run(["bash", "-euc", line.replace("$BASE", service_url)], ROOT))
    assert made["mlflow"]["experiment"] == "compressions"
    (shown,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    with Client(service_url) as client:
        delivery = client.webhooks.test(made["id"])
        job = next(iter(client.jobs.list()), None)
        for webhook in list(client.webhooks.list()):
            client.webhooks.delete(webhook.id)
    assert json.loads(shown).keys() == delivery.payload.keys()
    assert job is None or set(json.loads(shown)["data"]) - {"urls"} <= job.model_dump().keys() | {"object"}
