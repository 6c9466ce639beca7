"""`modelpress compress`: one network, one command, by a service or here."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.remote import FAILED, INTERRUPTED, MISSED, connected, follow, tell_actions, verdict

if TYPE_CHECKING:
    from engine.contract.report import Report
    from modelpress import Client, JobHandle

Document = dict[str, Any]
_TUNING_EPOCHS = 5


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    model: Path
    data: Path | None
    out: Path
    spec: Path | None = None
    int8: bool = False
    prune: float | None = None
    epochs: int = _TUNING_EPOCHS
    max_drop: float | None = None
    metric: str | None = None
    model_metadata: str | None = None
    data_metadata: str | None = None
    name: str | None = None

    def document(self) -> Document:
        """The spec, without the two files."""
        document = self._read() if self.spec is not None else self._shorthand()
        if self.max_drop is not None or self.metric is not None:
            accuracy = {"max_drop": self.max_drop, "metric": self.metric}
            stated = {key: value for key, value in accuracy.items() if value is not None}
            constraints = document.get("constraints") or {}
            document["constraints"] = {**constraints, "accuracy": {**(constraints.get("accuracy") or {}), **stated}}
        return {**document, "name": self.name or document.get("name") or f"compress {self.model.name}"[:200]}

    def _read(self) -> Document:
        import yaml

        assert self.spec is not None
        try:
            document = yaml.safe_load(self.spec.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise typer.BadParameter(f"{self.spec}: {error}") from error
        if not isinstance(document, dict):
            raise typer.BadParameter(f"{self.spec}: a spec is a mapping")
        return dict(document)

    def _shorthand(self) -> Document:
        steps: list[Document] = []
        if self.prune is not None:
            steps.append({"method": "structured_pruning", "pruning_ratio": self.prune})
            if self.data is not None:
                steps.append({"method": "distillation", "teacher": "baseline", "epochs": self.epochs})
        if self.int8 or not steps:
            steps.append({"method": "int8_quantization" if self.data is not None else "dynamic_quantization"})
        return {"steps": steps}

    def check(self) -> None:
        """Raises BadParameter for options that do not go together."""
        if self.spec is not None and (self.int8 or self.prune is not None):
            raise typer.BadParameter("give either --spec, or --int8 and --prune")
        if self.data is None and (self.max_drop is not None or self.metric is not None):
            raise typer.BadParameter("--max-drop and --metric are measured on examples: give --data")


def metadata(text: str | None) -> Document | None:
    """Metadata as JSON, or in a file that holds it. Raises BadParameter."""
    if text is None:
        return None
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_bytes())
    except ValueError as error:
        raise typer.BadParameter(f"metadata {text[:200]!r} is not JSON: {error}") from error
    except OSError as error:
        raise typer.BadParameter(f"metadata {text[:200]!r}: {error}") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"metadata {text[:200]!r} is no JSON object")
    return found


def by_service(wanted: Wanted, server: str, api_key: str | None) -> int:
    """Upload, submit, follow, download; returns the exit status. Ctrl-C cancels the job."""
    document = wanted.document()
    model_metadata, data_metadata = metadata(wanted.model_metadata), metadata(wanted.data_metadata)
    with connected(server, api_key) as client:
        document["model"] = client.models.upload(wanted.model, metadata=model_metadata).id
        if wanted.data is not None:
            document["dataset"] = client.datasets.upload(wanted.data, metadata=data_metadata).id
        job = client.jobs.create(document)
        typer.echo(f"{client.base_url}/v1/jobs/{job.id}", err=True)
        try:
            job = follow(job)
        except KeyboardInterrupt:
            _cancel(client, job)
            return INTERRUPTED
        if job.status == "succeeded" or job.artifacts():
            job.download(wanted.out)
        status = verdict(job)
        if job.status == "succeeded":
            _show(wanted.out)
        tell_actions(wanted.out, job.outcome, job.id)
        return status


def _cancel(client: "Client", job: "JobHandle") -> None:
    from modelpress import ApiError

    try:
        client.jobs.cancel(job.id)
    except ApiError as error:
        if error.code != "job_already_terminal":
            raise
    typer.echo(f"{job.id} was cancelled.", err=True)


def here(wanted: Wanted) -> int:
    """Do it on this machine, without a service; returns the exit status."""
    command = [sys.executable, "-m", "engine", "run"]
    with tempfile.TemporaryDirectory(prefix="modelpress-") as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(json.dumps(wanted.document()))
        command += [str(spec), "--model", str(wanted.model), "--out", str(wanted.out)]
        stated = {"--data": wanted.data, "--model-metadata": wanted.model_metadata, "--data-metadata": wanted.data_metadata}
        command += [word for option, value in stated.items() if value is not None for word in (option, str(value))]
        try:
            status = subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            return INTERRUPTED
    if status in (0, MISSED):
        outcome = _report(wanted.out).outcome
        tell_actions(wanted.out, outcome, None)
    return status if status >= 0 else FAILED


def _report(folder: Path) -> "Report":
    from engine.reporting import document

    return document.read((folder / "report.json").read_bytes())


def _show(folder: Path) -> None:
    from engine.reporting.text import summary_table

    typer.echo(summary_table(_report(folder)), err=True)
