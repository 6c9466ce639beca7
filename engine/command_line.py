"""What `python -m engine` does: runs a spec, or looks into a file."""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import yaml
from pydantic import ValidationError

from engine.contract import events
from engine.contract.errors import EngineError, JobError
from engine.contract.file_format import Kind, by_ending, catalogue, names
from engine.contract.findings import problems_of
from engine.contract.job import FILE_NAME, RESULT, DatasetFile, Job, ModelFile
from engine.contract.json import JsonObject
from engine.contract.metadata import DatasetMetadata, ModelMetadata
from engine.contract.metric import first_of
from engine.contract.report import Report
from engine.contract.spec import Spec, parse
from engine.files.magic import SNIFF_BYTES, sniff
from engine.jobs.recorder import sha256_of
from engine.jobs.run import run_job
from engine.reporting import document as report
from engine.reporting.text import summary_table

M = TypeVar("M", ModelMetadata, DatasetMetadata)
EXIT_FAILED, EXIT_USAGE, EXIT_CONSTRAINTS = 1, 2, 3
SCRATCH: list[Path] = []
"""Directories of jobs under way, which go when the program is interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do what it says; returns the exit status.

    0: done, constraints met or none given. 1: failed. 2: wrong usage, or a spec with problems. 3: done, but a constraint was missed
    (the best artifact was kept all the same). 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    return _run(options) if options.command == "run" else _inspect(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Compress a network, or look into a file.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="run a spec; exit status 0 done, 1 failed, 2 wrong usage, 3 a constraint was missed, 130 interrupted"
    )
    run.add_argument(
        "spec",
        type=Path,
        help="the spec, YAML or JSON, whose `model` and `dataset` may be left out; or the report of a job, which is then done again",
    )
    run.add_argument("--model", type=Path, required=True)
    run.add_argument("--model-format", choices=names("model"), help="default: by the file's ending")
    run.add_argument("--model-metadata", metavar="JSON|FILE")
    run.add_argument("--data", type=Path)
    run.add_argument("--data-format", choices=names("dataset"), help="default: by the file's ending")
    run.add_argument("--data-metadata", metavar="JSON|FILE")
    run.add_argument("--teacher", action="append", default=[], metavar="mdl_ID=FILE", help="a further model that the spec names")
    run.add_argument("--out", type=Path, required=True, help="receives the artifacts and the report as JSON, HTML and Markdown")
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--device", default="cpu", help="cpu, cuda:0, …")
    run.add_argument("--devices", type=int, help="processes that train together, each on a device of its own; default: what the spec says")
    run.add_argument(
        "--json-events",
        action="store_true",
        help="write every event as one JSON line on standard output; files that events name are in --out",
    )
    inspect = commands.add_parser("inspect", help="describe a model or dataset file as JSON")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--format", choices=list(catalogue()), help="default: by the file's ending")
    inspect.add_argument("--metadata", default="{}", metavar="JSON|FILE")
    inspect.add_argument("--data", type=Path, help="of a model: a dataset to try it on; says what the outputs mean and how good they are")
    inspect.add_argument("--data-format", choices=[name for name, known in catalogue().items() if known.holds == "dataset"])
    inspect.add_argument("--data-metadata", default="{}", metavar="JSON|FILE")
    return parser


def _run(options: argparse.Namespace) -> int:
    document = _document(options.spec)
    if "report_version" in document:
        document = _again(report.read(json.dumps(document)), options)
    document["model"] = _identifier(document.get("model"), "mdl_")
    if options.data is None:
        document.pop("dataset", None)
    else:
        document["dataset"] = _identifier(document.get("dataset"), "ds_")
    if options.devices is not None:
        document["devices"] = options.devices
    spec, problems = parse(document)
    if spec is None:
        for problem in problems:
            print(f"{problem.pointer}: {problem.detail}" + (f" ({problem.hint})" if problem.hint else ""), file=sys.stderr)
        return EXIT_USAGE
    job = Job(
        kind="compress",
        job_id="job_local",
        spec=spec,
        device=options.device,
        threads=options.threads,
        model=_model(options.model, options.model_format, options.model_metadata or "{}", spec.model),
        dataset=None if options.data is None else _dataset(options.data, options.data_format, options.data_metadata or "{}", spec.dataset),
        teachers=dict(map(_teacher, options.teacher)),
    )
    console = Console(sys.stderr, spec, json_events=options.json_events)
    status = _job(job, options.out, console)
    if status != 0 or (console.done is not None and console.done.error is not None):
        return EXIT_FAILED
    described = report.read((options.out / "report.json").read_bytes())
    (options.out / "report.html").write_text(report.to_html(described), encoding="utf-8")
    (options.out / "report.md").write_text(report.to_markdown(described), encoding="utf-8")
    print(summary_table(described), file=sys.stderr)
    return EXIT_CONSTRAINTS if described.outcome == "constraints_not_met" else 0


def _again(done: Report, options: argparse.Namespace) -> JsonObject:
    """The spec of a job that was done before; formats and metadata of its files are those of then, unless others are given."""
    for what, path, before in (("model", options.model, done.inputs.model), ("data", options.data, done.inputs.dataset)):
        if path is None or before is None:
            continue
        if sha256_of(path) != before.sha256:
            print(f"{path} is not the file of that job: its sha256 is not {before.sha256}", file=sys.stderr)
        for option, value in (("format", before.format), ("metadata", json.dumps(before.metadata))):
            if getattr(options, f"{what}_{option}") is None:
                setattr(options, f"{what}_{option}", value)
    return dict(done.spec)


def _job(job: Job, out: Path | None, console: "Console") -> int:
    """Run a job in a directory of its own, and copy what it wrote to `out`."""
    with tempfile.TemporaryDirectory(prefix="modelpress-") as name:
        directory = Path(name)
        SCRATCH.append(directory)
        (directory / FILE_NAME).write_text(job.model_dump_json())
        status = run_job(directory, console)
        if out is not None:
            shutil.copytree(directory / "out", out, dirs_exist_ok=True)
            if console.announces_files and (directory / RESULT).exists():
                shutil.copyfile(directory / RESULT, out / RESULT)
        if console.done is not None and console.done.result is not None:
            console.result = json.loads(console.done.result.read(directory))
    return status


def _inspect(options: argparse.Namespace) -> int:
    kind = catalogue()[_format(options.file, options.format)].holds
    if options.data is not None and kind != "model":
        raise _usage("--data goes with a model")
    if kind == "model":
        data = options.data and _dataset(options.data, options.data_format, options.data_metadata, None)
        model = _model(options.file, options.format, options.metadata, None)
        job = Job(kind="inspect_model", job_id="job_local", model=model, dataset=data)
    else:
        job = Job(kind="inspect_dataset", job_id="job_local", dataset=_dataset(options.file, options.format, options.metadata, None))
    console = Console(sys.stderr, None, json_events=False)
    status = _job(job, None, console)
    if status == 0 and console.result is not None:
        print(json.dumps(console.result, indent=2))
    return status


def _document(path: Path) -> JsonObject:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _usage(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise _usage(f"{path}: a spec is a mapping")
    return document


def _identifier(given: Any, prefix: str) -> str:
    """A placeholder where the spec names no stored object, since files are given instead."""
    return given if isinstance(given, str) and given.startswith(prefix) and given.removeprefix(prefix).isalnum() else f"{prefix}local"


def _model(path: Path, format: str | None, metadata: str, identifier: str | None) -> ModelFile:
    known = _known(path, format, "model")
    return ModelFile(id=identifier, path=path.absolute(), format=known, metadata=_metadata(metadata, ModelMetadata), name=path.name)


def _dataset(path: Path, format: str | None, metadata: str, identifier: str | None) -> DatasetFile:
    known = _known(path, format, "dataset")
    return DatasetFile(id=identifier, path=path.absolute(), format=known, metadata=_metadata(metadata, DatasetMetadata), name=path.name)


def _known(path: Path, format: str | None, holds: Kind) -> str:
    """The format of a file that is there and holds what it should."""
    if not path.is_file():
        raise _usage(f"{path}: no such file")
    known = _format(path, format)
    if catalogue()[known].holds != holds:
        raise _usage(f"{path}: a file of format {known} is no {holds}; formats of a {holds}: {', '.join(names(holds))}")
    return known


def _format(path: Path, given: str | None) -> str:
    found = catalogue().get(given) if given else by_ending(path.suffix)
    if not given and path.suffix == ".zip":  # archives of many kinds end so
        with path.open("rb") as file, contextlib.suppress(EngineError):
            return sniff(file.read(SNIFF_BYTES), None)
    if found is None:
        raise _usage(f"{path}: give the format, its ending does not tell")
    return found.name


def _metadata(text: str, model: type[M]) -> M:
    try:
        document = json.loads(text if text.lstrip().startswith("{") else Path(text).read_bytes())
        return model.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(f"{item.pointer or 'the document'} {item.detail}" for item in problems_of(error, model, document))
        raise _usage(f"metadata {text[:200]!r}: {problems}") from error
    except ValueError as error:
        raise _usage(f"metadata {text[:200]!r} is not JSON: {error}") from error
    except OSError as error:
        raise _usage(f"metadata {text[:200]!r}: {error}") from error


def _teacher(text: str) -> tuple[str, ModelFile]:
    identifier, separator, path = text.partition("=")
    if not separator:
        raise _usage(f"--teacher {text!r}: write mdl_ID=FILE")
    return identifier, _model(Path(path), None, "{}", identifier)


def _usage(message: str) -> SystemExit:
    print(message, file=sys.stderr)
    return SystemExit(EXIT_USAGE)


class Console:
    """Shows a job's events to a person, or passes them on as JSON lines."""

    def __init__(self, stream: TextIO, spec: Spec | None, *, json_events: bool) -> None:
        self.done: events.Done | None = None
        self.result: Any = None
        """What the job came to, as JSON types."""
        self._stream = stream
        self._steps = len(spec.steps) if spec else 0
        self.announces_files = json_events
        """Whether whoever reads the events looks for the files that they name."""
        self._json = json_events
        self._live = stream.isatty() and not json_events
        self._width = 0

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.Done):
            self.done = event
        if self._json:
            events.write_event(1, event)
            return
        match event:
            case events.Progress():
                self._progress(event)
            case events.StepStarted():
                self._line(f"step {(event.step_index or 0) + 1}/{self._steps}: {event.method}")
            case events.StepFinished():
                first = first_of(event.metrics)
                shown = {key: value for key, value in event.metrics.items() if key in (first, "params_count")}
                self._line("  " + ", ".join(f"{key} {value:.5g}" for key, value in shown.items()))
            case events.Warned():
                self._line(f"warning {event.code}: {event.message}")
            case events.Log():
                self._line(event.message)
            case events.Failed(error=error) | events.Done(error=JobError() as error):
                self._line(f"failed ({error.code}): {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
            case _:
                pass

    def _progress(self, event: events.Progress) -> None:
        if not self._live:
            return
        left = f", {event.eta_seconds:.0f} s left" if event.eta_seconds is not None else ""
        text = f"{100 * event.fraction:3.0f} % {event.message}{left}"[: max(20, shutil.get_terminal_size().columns - 1)]
        print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
        self._width = len(text)

    def _line(self, text: str) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream)
            self._width = 0
        print(text, file=self._stream, flush=True)
