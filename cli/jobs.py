"""`modelpress jobs`: what runs on a service, and what it came to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.remote import ApiKey, Server, connected, follow, verdict

if TYPE_CHECKING:
    from modelpress.resources.jobs import Job

jobs = typer.Typer(no_args_is_help=True, help="Jobs of a service (`--server`, MODELPRESS_URL).")
JobId = Annotated[str, typer.Argument(help="Such as job_01j….")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@jobs.command("list")
def list_jobs(
    *,
    status: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value or key; may be repeated, all must hold.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs.")] = 20,
    as_json: AsJson = False,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Show jobs, newest first."""
    from itertools import islice

    with connected(server, api_key) as client:
        asked = {"status": tuple(status or ()), "label": tuple(label or ())}
        for job in islice(client.jobs.list(**asked), limit):  # type: ignore[arg-type]  # the service says which statuses there are
            typer.echo(job.model_dump_json() if as_json else _line(job))


def _line(job: "Job") -> str:
    state = job.outcome if job.status == "succeeded" else f"{job.progress.fraction:.0%}" if job.status == "running" else ""
    change = ""
    if job.summary is not None and job.summary.comparison.file_ratio:
        change = f"{job.summary.comparison.file_ratio:.1f}× smaller"
    return f"{job.id}  {job.status:<9}  {state or '':<19}  {change:<13}  {job.created_at:%Y-%m-%d %H:%M}  {job.name or ''}".rstrip()


@jobs.command()
def show(job_id: JobId, *, as_json: AsJson = False, server: Server = None, api_key: ApiKey = None) -> None:
    """Show one job: how far it is, or what it came to."""
    with connected(server, api_key) as client:
        job = client.jobs.get(job_id)
        if as_json:
            typer.echo(job.model_dump_json())
            return
        typer.echo(_line(job))
        if job.error is not None:
            typer.echo(f"{job.error.code}: {job.error.message} {job.error.hint or ''}".rstrip())
        for step in job.steps:
            typer.echo(f"  {step.index + 1}. {step.method}: {step.status}")
        for warning in job.warnings:
            typer.echo(f"  {warning.code}: {warning.message}")
        if job.status == "succeeded":
            from engine.reporting.text import summary_table

            typer.echo(summary_table(job.report()))


@jobs.command()
def wait(
    job_id: JobId,
    *,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; the job goes on when they are over.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Wait until a job has ended. Exit status 0, 1 where it failed, 3 where a constraint was missed."""
    with connected(server, api_key) as client:
        job = client.jobs.get(job_id)
        raise typer.Exit(verdict(follow(job, timeout)))


@jobs.command()
def cancel(job_id: JobId, *, server: Server = None, api_key: ApiKey = None) -> None:
    """Stop a job."""
    with connected(server, api_key) as client:
        typer.echo(_line(client.jobs.cancel(job_id)))


@jobs.command()
def logs(
    job_id: JobId,
    *,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last lines.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Print the log of a job."""
    with connected(server, api_key) as client:
        typer.echo(client.jobs.logs(job_id, tail=tail), nl=False)


@jobs.command()
def download(
    job_id: JobId,
    out: Annotated[Path, typer.Option(help="Folder; made where it is missing.")],
    *,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Save what a job published, and its report."""
    with connected(server, api_key) as client:
        for path in client.jobs.download(job_id, out):
            typer.echo(path)
