"""The API under attack: a process of its own over a fresh database, two projects with keys, and hands to hurt it with."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from core.access import keys, projects
from core.database import migrate
from core.service import Service
from core.settings import Settings
from tests.attack.watch import livez_seconds
from tests.faults.house import examples, network
from tests.servers import free_port, wait_until


class Answers:
    """How often which status was answered; safe to count in from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        """Answers that no request may get: 5xx, but for 503 with `Retry-After`."""

    def note(self, status: int, headers: Any, path: str) -> None:
        """Count one answer."""
        with self._lock:
            self.statuses[status] += 1
            if status >= 500 and not (status == 503 and headers.get("Retry-After")):
                self.wrong.append(f"{status} for {path[:80]}")


class Target:
    """`python -m api.server` and what an attacker and an innocent need to talk to it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.answers = Answers()
        self.settings = Settings(data_dir=folder / "data", min_free_bytes=0)
        migrate.upgrade(self.settings)
        self._stack = Service.open(self.settings)
        self.service = self._stack.__enter__()
        self.attacker, self.innocent = self.key("attacker"), self.key("innocent")
        self.log = folder / "api.log"
        set_here = {"MODELPRESS_DATA_DIR": str(self.settings.data_dir), "MODELPRESS_MIN_FREE_BYTES": "0", **environment}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.server", "--port", str(self.port)], env={**os.environ, **set_here}, stdout=log, stderr=log
            )
        wait_until(lambda: livez_seconds(self.port) < float("inf"), 60)
        self.model, self.dataset = self.inputs(self.attacker)

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._stack.__exit__(None, None, None)

    def key(self, project: str, **options: Any) -> str:
        """A key of a project, which is made where it is new."""
        with self.service.database.unit_of_work() as session:
            return keys.create(session, projects.create(session, project).id, "attack", **options)[1]

    def inputs(self, key: str) -> tuple[str, str]:
        """A model and a dataset of the key's project."""
        found = []
        for kind, format, content in (("models", "onnx", network()), ("datasets", "npz", examples())):
            path = f"/v1/{kind}?format={format}"
            while (answer := self.call("POST", path, content, key=key, content_type="application/octet-stream"))[0] == 429:
                time.sleep(0.1)
            assert answer[0] == 201, answer[2]
            found.append(json.loads(answer[2])["id"])
        return found[0], found[1]

    def spec(self, **more: Any) -> dict[str, Any]:
        """A valid spec of the attacker."""
        return {"model": self.model, "dataset": self.dataset, "steps": [{"method": "magnitude_pruning", "sparsity": 0.5}], **more}

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        key: str | None = None,
        content_type: str = "application/json",
        **headers: str,
    ) -> tuple[int, Any, bytes]:
        """One request on a connection of its own; every answer is counted. A header without a value is not sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Authorization": f"Bearer {key or self.attacker}", "Content-Type": content_type, **headers}
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.answers.note(answer.status, answer.headers, path)
        return answer.status, answer.headers, content

    def made(self, path: str, body: bytes | None = None, *, key: str | None = None) -> dict[str, Any]:
        """What a POST made; asked again while the attack before it has used up what the key may ask for."""
        while (answer := self.call("POST", path, body, key=key))[0] == http.HTTPStatus.TOO_MANY_REQUESTS:
            time.sleep(0.1)
        assert answer[0] in (200, 201, 202), answer[2]
        found: dict[str, Any] = json.loads(answer[2])
        return found

    def job(self, **more: Any) -> str:
        """The id of a new job of the attacker."""
        return str(self.made("/v1/jobs", json.dumps(self.spec(**more)).encode())["id"])

    def open(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def head(self, method: str, path: str, *more: str, key: str | None = None) -> bytes:
        """A request's head."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {key or self.attacker}", *more]
        return "\r\n".join([*lines, "", ""]).encode()

    def repeat(self, attack: Callable[[int], Any], *, seconds: float, threads: int) -> int:
        """Call `attack(thread)` over and over in several threads; returns how often it was called."""
        deadline = time.monotonic() + seconds

        def run(number: int) -> int:
            count = 0
            while time.monotonic() < deadline:
                attack(number)
                count += 1
            return count

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(run, range(threads)))
