"""The `modelpress` command. Each subcommand imports what it needs when it runs, so that help is instant and torch stays out."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.jobs import jobs
from cli.remote import ApiKey, Server

if TYPE_CHECKING:
    from core.settings import Settings

LogFormat = Literal["json", "console"]
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Neural-network compression as a service.",
    epilog="Exit status: 0 done; 1 failed, with a sentence; 2 wrong usage, or a spec with problems; 3 done, but a constraint was missed (the "
    "best artifact is kept all the same); 130 interrupted.",
)
keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(jobs, name="jobs")
app.add_typer(keys, name="keys")
projects = typer.Typer(no_args_is_help=True, help="Projects and their quotas.")
app.add_typer(projects, name="projects")

DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database, blobs and work directories.")]
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"modelpress {version('modelpress')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")] = False,
) -> None:
    """Options of every command."""


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; one that others can reach needs API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8000,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=0, help="CPU workers; the GPUs get workers of their own.")] = 1,
    demo: Annotated[bool, typer.Option("--demo", help="Submit the demo job once the service is ready.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries and the broker log, too.")] = False,
    log_format: Annotated[LogFormat | None, typer.Option(help="How to log; json also for the address.")] = None,
) -> None:
    """Run the whole service: API, workers, and the broker and database that no URL names."""
    from cli import serve as command

    _choose(data_dir)
    os.environ.update({"MODELPRESS_VERBOSE": "true"} if verbose else {})
    os.environ.update({"MODELPRESS_LOG_FORMAT": log_format} if log_format else {})
    raise typer.Exit(command.serve(host=host, port=port, workers=workers, demo=demo))


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Where report and model are written.")] = Path("build/demo")) -> None:
    """Run the demo job through a whole service of its own."""
    from cli import demo as command

    raise typer.Exit(command.run(out))


@app.command()
def worker(
    queue: Annotated[list[str], typer.Option(help="Queue to take work from: cpu, gpu, inspect or webhooks. May be repeated.")],
) -> None:
    """Run one worker. A GPU worker takes the GPUs that CUDA_VISIBLE_DEVICES names, and jobs that need no more devices than these."""
    from core.database import migrate
    from core.settings import Settings

    with _explained():
        settings = Settings()
    known = {settings.cpu_queue, settings.gpu_queue, settings.inspect_queue, settings.webhook_queue}
    if unknown := sorted(set(queue) - known):
        raise typer.BadParameter(f"there is no queue {unknown[0]!r}; queues: {', '.join(sorted(known))}")
    with _explained():
        migrate.require_current(settings)
        from worker import app as celery

        celery.run(queue)


@app.command()
def migrate() -> None:
    """Bring the database to the version that this code needs."""
    from core.database import migrate as command
    from core.settings import Settings

    with _explained():
        settings = Settings()
        command.upgrade(settings)
        typer.echo(f"The database is at revision {command.current(settings)}.")


@app.command(context_settings=_PASSED_ON)
def run(context: typer.Context) -> None:
    """Run one spec here, without a service (`modelpress run --help`)."""
    os.execv(sys.executable, [sys.executable, "-m", "engine", "run", *context.args])  # noqa: S606 - this interpreter, and no shell


@app.command(context_settings=_PASSED_ON)
def inspect(context: typer.Context) -> None:
    """Describe a model or dataset file as JSON, without a service (`modelpress inspect --help`)."""
    os.execv(sys.executable, [sys.executable, "-m", "engine", "inspect", *context.args])  # noqa: S606 - this interpreter, and no shell


@app.command()
def compress(
    *,
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The network's file.")],
    out: Annotated[Path, typer.Option(help="Folder for the compressed network and the report; made where it is missing.")],
    data: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Examples to tune and to measure with.")] = None,
    spec: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A whole spec, YAML or JSON; model and dataset are filled in.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Store and compute in 8 bits; what happens where nothing else is asked for.")
    ] = False,
    prune: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the channels to remove; with data, distillation follows.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes of that distillation.")] = 5,
    max_drop: Annotated[float | None, typer.Option(min=0, help="Largest loss of the metric.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric of --max-drop; top1 where the spec names none.")] = None,
    model_metadata: Annotated[str | None, typer.Option(metavar="JSON|FILE")] = None,
    data_metadata: Annotated[str | None, typer.Option(metavar="JSON|FILE")] = None,
    name: Annotated[str | None, typer.Option(help="How lists show the job.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Compress one network: by a service (--server, MODELPRESS_URL), or here. Exit status 3 where a constraint was missed."""
    from cli import compress as command

    wanted = command.Wanted(model, data, out, spec, int8, prune, epochs, max_drop, metric, model_metadata, data_metadata, name)
    wanted.check()
    raise typer.Exit(command.by_service(wanted, server, api_key) if server else command.here(wanted))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[list[str] | None, typer.Option("--scope", "--scopes", help="May be repeated, or a comma-separated list.")] = None,
    project: Annotated[str, typer.Option(help="Made if it does not exist.")] = "default",
    expires_days: Annotated[float | None, typer.Option(min=0)] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print its token, which is shown this once."""
    _choose(data_dir)
    from core.access import keys as command
    from core.access import projects

    scopes = [item for value in scope or [] for item in value.split(",") if item] or sorted(command.USER_SCOPES)
    with _explained(), _database() as database, database.unit_of_work() as session:
        owner = projects.create(session, project)
        valid_for = timedelta(days=expires_days) if expires_days is not None else None
        key, token = command.create(session, owner.id, name, scopes=scopes, valid_for=valid_for)
        typer.echo(f"{key.id} of project {project}: {', '.join(key.scopes)}", err=True)
    typer.echo(token)


@keys.command("list")
def list_keys(project: str = "default", data_dir: DataDir = None) -> None:
    """Show the keys of a project."""
    _choose(data_dir)
    from core.access import keys as command
    from core.access import projects

    with _explained(), _database() as database, database.reader() as session:
        for key in command.find_all(session, projects.by_name(session, project).id):
            state = "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "valid"
            typer.echo(f"{key.id}  {state:<16}  {key.name}  [{', '.join(key.scopes)}]")


@keys.command("revoke")
def revoke_key(key_id: str, project: str = "default", data_dir: DataDir = None) -> None:
    """End a key at once."""
    _choose(data_dir)
    from core.access import keys as command
    from core.access import projects

    with _explained(), _database() as database, database.unit_of_work() as session:
        command.revoke(session, projects.by_name(session, project).id, key_id)


@projects.command("usage")
def show_usage(project: str = "default", data_dir: DataDir = None) -> None:
    """Show what a project uses of its quotas."""
    _choose(data_dir)
    from core.access import projects, quotas

    with _explained(), _database() as database, database.reader() as session:
        found = quotas.usage(session, projects.by_name(session, project).id)
    for name, quota in found["quotas"].items():
        typer.echo(f"{name:<16} {quota['used']:>16} of {'no limit' if quota['limit'] is None else quota['limit']}")


@projects.command("quota")
def set_quota(
    name: Annotated[str, typer.Argument(help="stored_bytes, models, queued_jobs, running_jobs or compute_seconds.")],
    limit: Annotated[str, typer.Argument(help="A number, or `none`.")],
    project: str = "default",
    data_dir: DataDir = None,
) -> None:
    """Set or lift one quota of a project."""
    _choose(data_dir)
    from core.access import projects, quotas

    if name not in quotas.NAMES:
        raise typer.BadParameter(f"there is no quota {name!r}; quotas: {', '.join(quotas.NAMES)}")
    try:
        value = None if limit == "none" else float(limit) if name == "compute_seconds" else int(limit)
    except ValueError:
        raise typer.BadParameter(f"{limit!r} is no number") from None
    if value is not None and not 0 <= value < 2**63:
        raise typer.BadParameter("a limit is not negative and fits in 63 bits")
    with _explained(), _database() as database, database.unit_of_work() as session:
        quotas.change(session, projects.by_name(session, project).id, **{name: value})


def _choose(data_dir: Path | None) -> None:
    """Make a folder that was named on the command line the one of all settings."""
    if data_dir is not None:
        os.environ["MODELPRESS_DATA_DIR"] = str(data_dir.resolve())


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what keeps a command from its work into one sentence and exit status 1."""
    from core.operations.startup import CannotStart, explained

    try:
        with explained():
            yield
    except CannotStart as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def _refuse_elsewhere(settings: "Settings") -> None:
    """Raise CannotStart where nobody chose the database and there is none here: the service's own lies in another folder."""
    from core.operations.startup import CannotStart

    if not {"data_dir", "database_url"} & settings.model_fields_set and not settings.data_dir.exists():
        raise CannotStart(
            f"There is no {settings.data_dir.resolve()}: run this in the folder where `modelpress serve` runs, or name its --data-dir "
            "(one that does not exist yet is made)."
        )


class _database:  # noqa: N801 - reads as the context that it is
    """The migrated database of the settings."""

    def __enter__(self) -> Any:
        from core.database import migrate as command
        from core.database.db import Database
        from core.settings import Settings

        settings = Settings()
        _refuse_elsewhere(settings)
        command.upgrade(settings)
        self._database = Database(settings)
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


if __name__ == "__main__":
    app()
