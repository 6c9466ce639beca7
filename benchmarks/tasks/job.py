"""A job of the engine on a case, and the metric of one file as the service measures it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tasks.cases import Case
from engine.contract.metadata import ModelMetadata
from engine.jobs.run import run_job
from engine.measuring.examiner.client import Examiner
from engine.measuring.examiner.messages import ExaminedDataset, ExampleSource, ScoreRequest
from engine.networks.network import Signature


def run(  # noqa: PLR0917 - what a job is
    case: Case, model: Path, data: Path, steps: list[dict[str, Any]], folder: Path, seed: int
) -> tuple[float, float]:
    """The metric of the original and of the result. Raises RuntimeError where the job fails."""
    folder.mkdir()
    spec = {
        "model": "mdl_case",
        "dataset": "ds_case",
        "seed": seed,
        "steps": steps,
        "evaluation": {"metrics": [case.metric], "latency": {"repeats": 5}},
    }
    job = {
        "job_id": "job_case", "kind": "compress", "spec": spec, "threads": 1, "device": "cpu", "teachers": {},
        "model": {"id": "mdl_case", "path": str(model), "format": "onnx", "metadata": case.metadata},
        "dataset": {"id": "ds_case", "path": str(data), "format": "npz", "metadata": {}},
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    seen: list[Any] = []
    if run_job(folder, seen.append):
        raise RuntimeError(str(seen[-1]))
    report = json.loads((folder / "out" / "report.json").read_text())
    key = f"test.{case.metric}"
    before = report["baseline"]["metrics"].get(key)
    return (1.0 if before is None else before), report["result"]["metrics"][key]


def scored(  # noqa: PLR0917 - what is scored beside what
    case: Case, signature: Signature, original: Path, made: Path, data: Path, folder: Path
) -> float:
    """The metric of a file that was made elsewhere."""
    folder.mkdir(exist_ok=True)
    source = ExampleSource(
        dataset=ExaminedDataset(path=data, format="npz"), signature=signature, split="test", seed=0, work=folder / "examples"
    )
    request = ScoreRequest(
        file=original,
        baseline=original,
        outputs=folder / "outputs",
        source=source,
        declared=ModelMetadata.model_validate(case.metadata),
        metrics=(case.metric,),
        batch_size=256,
        threads=1,
    )
    with Examiner() as examiner:
        heads = examiner.score(request)().heads
        return examiner.score(request.model_copy(update={"file": made, "heads": heads}))().metrics[f"test.{case.metric}"]
