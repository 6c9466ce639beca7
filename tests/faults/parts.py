"""The service of docker-compose.yml by hand: PostgreSQL, Valkey and S3 behind proxies that misbehave, and several worker hosts."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.settings import Settings
from tests import servers
from tests.compose import Compose
from tests.faults.house import SHORT, House
from tests.faults.invariants import Seen
from tests.plain import Client
from tests.processes import descendants
from tests.proxy import FaultProxy
from tests.servers import free_port

HOSTS = ("worker-a", "worker-b")


class PartsHouse(House):
    """API, inspector and two worker hosts, each with a folder of its own, over the three parts."""

    def __init__(self, folder: Path, postgres: servers.Postgres, valkey: servers.Valkey, s3: dict[str, str]) -> None:
        self.postgres, self.valkey = postgres, valkey
        self.database_proxy = FaultProxy(postgres.port)
        self.broker_proxy = FaultProxy(valkey.port)
        self.store_proxy = FaultProxy(int(s3["AWS_ENDPOINT_URL"].rpartition(":")[2]))
        name = postgres.create()
        places = {
            "postgres:5432/modelpress": f"127.0.0.1:{self.database_proxy.port}/{name}",
            "valkey:6379": f"127.0.0.1:{self.broker_proxy.port}",
            "storage:9000": f"127.0.0.1:{self.store_proxy.port}",
        }
        self.compose = Compose({"POSTGRES_PASSWORD": "secret", "STORAGE_PASSWORD": "secret-of-s3"}, places)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.folder, self.log, self.port = folder, folder / "serve.log", free_port()
        self._workers = 1 + len(HOSTS)
        self._started = 0
        for host in ("migrate", "api", "inspector", *HOSTS):
            (folder / host).mkdir()
        self.compose.run("migrate", volume=folder / "migrate")
        self.token = self.compose.run("api", "keys", "create", "--name", "faults", volume=folder / "api").strip()
        self.client = Client(f"http://127.0.0.1:{self.port}", self.token)
        self.settings = Settings(
            data_dir=folder / "checker",
            database_url=postgres.url(name),
            blob_url=self.compose.environment("api")["MODELPRESS_BLOB_URL"],
            staging_expiry_seconds=1,
            min_free_bytes=0,
        )
        self.seen = Seen()
        self.model, self.dataset = "", ""
        for host in ("api", "inspector", *HOSTS):
            self.start(host)

    def start(self, host: str) -> None:
        """Start what runs on a host."""
        self._started += host != "api"
        service = "worker" if host in HOSTS else host
        self._processes[host] = self.compose.start(
            service, volume=self.folder / host, log=self.log, port=self.port if host == "api" else None, **SHORT
        )

    def host(self, name: str) -> "subprocess.Popen[bytes]":
        """The process of a host."""
        return self._processes[name]

    def everyone(self) -> list[int]:
        """Process ids of all hosts."""
        return [pid for process in self._processes.values() for pid in (process.pid, *descendants(process.pid))]

    def data_dirs(self) -> list[Path]:
        """One for each host."""
        return [self.folder / host / "data" for host in ("api", "inspector", *HOSTS)]

    def restart(self) -> None:
        """Start every host that is down."""
        for host, process in list(self._processes.items()):
            if process.poll() is not None:
                self.start(host)

    def wait_until_whole(self) -> None:
        """Bring back what died, as an orchestrator would, and wait until all is there."""
        self.restart()
        self.until(lambda: self.log.read_bytes().count(b"isolation chosen") >= self._started, "no worker is ready")
        self.until(lambda: self.answers() and len(self.pids("worker")) == self._workers, "the house is not whole again")

    def close(self) -> None:
        """Stop every host in good order."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            process.kill()
            process.wait()
        for proxy in (self.database_proxy, self.broker_proxy, self.store_proxy):
            proxy.close()


@contextlib.contextmanager
def parts_house(folder: Path) -> Iterator[PartsHouse]:
    """A house over parts of its own."""
    with servers.postgres() as postgres, servers.valkey() as valkey, servers.s3() as s3, _environment(s3):
        house = PartsHouse(folder, postgres, valkey, s3)
        try:
            house.wait_until_ready()
            yield house
        finally:
            house.close()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """What the checker needs to read the object store itself."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
