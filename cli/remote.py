"""Commands that speak to a service: where it is, and what its refusals mean for whoever runs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modelpress import Client, JobHandle

FAILED, USAGE, MISSED, INTERRUPTED = 1, 2, 3, 130
Server = Annotated[str | None, typer.Option(envvar="MODELPRESS_URL", help="Address of a service, such as http://127.0.0.1:8000.")]
ApiKey = Annotated[str | None, typer.Option(envvar="MODELPRESS_API_KEY", help="Key of the service; better set in the environment.")]


@contextmanager
def connected(server: str | None, api_key: str | None) -> Iterator["Client"]:
    """A client of the service; what it or the service refuses becomes a sentence and an exit status (2 for a spec with problems)."""
    from modelpress import ApiError, Client, ModelpressError

    with Client(server, api_key) as client:
        try:
            yield client
        except ApiError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(USAGE if error.code in ("spec_invalid", "dataset_required", "method_unavailable") else FAILED) from error
        except ModelpressError as error:
            typer.echo(f"{client.base_url}: {error}", err=True)
            raise typer.Exit(FAILED) from error
        except OSError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(FAILED) from error


def verdict(job: "JobHandle") -> int:
    """The exit status of a command that waited for a job; says why where it is not 0."""
    if job.status != "succeeded":
        error = job.error
        typer.echo(f"{job.id} {job.status}" + (f": {error.code}: {error.message} {error.hint or ''}".rstrip() if error else ""), err=True)
        return FAILED
    if job.outcome == "constraints_not_met":
        typer.echo(f"{job.id}: a constraint was missed; the best result was kept.", err=True)
        return MISSED
    return 0


def follow(job: "JobHandle", timeout_seconds: float | None = None) -> "JobHandle":
    """The job once it has ended, with its progress on standard error. Raises WaitTimeout."""
    from rich.console import Console

    from cli.live import Live

    with Live(Console(stderr=True)) as live:
        return job.wait(on_event=live.on_event, timeout_seconds=timeout_seconds)


def tell_actions(folder: Path, outcome: str | None, job_id: str | None) -> None:
    """In GitHub Actions: the report in the summary of the step, and outputs for the steps that follow."""
    report = folder / "report.md"
    if (summary := os.environ.get("GITHUB_STEP_SUMMARY")) and report.exists():
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(report.read_text(encoding="utf-8") + "\n")
    if outputs := os.environ.get("GITHUB_OUTPUT"):
        values = {"outcome": outcome or "", "job": job_id or "", "folder": str(folder)}
        with Path(outputs).open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())
