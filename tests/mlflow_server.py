"""MLflow servers for tests: the real one where it is installed, and one that holds the few routes which are used, with what they refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import urlopen

from tests.listening import Listening, Quiet
from tests.servers import free_port, wait_until

PROGRAM = os.environ.get("MLFLOW_PROGRAM") or shutil.which("mlflow")
NEEDED = "needs MLflow's server: pip install mlflow (850 MB) in an environment of its own, MLFLOW_PROGRAM=…/bin/mlflow"
_API = "/api/2.0/mlflow/"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"


@contextmanager
def real(folder: Path) -> Iterator[str]:
    """MLflow's own server; its URL."""
    port = free_port()
    command = [str(PROGRAM), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri"]
    command += [f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urlopen(f"{url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_until(answers, 120)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Stand:
    """The routes of a server that a service uses; `fails_at` cuts off the answer to one request, counted from 0."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.models: dict[str, list[dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.fails_at = -1
        outer = self

        class Handler(Quiet):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((f"{self.command} {self.path}", dict(self.headers)))
                try:
                    status, content = 200, outer.answer(self.command, self.path, body)
                except Refused as refused:
                    status, content = refused.status, json.dumps({"error_code": refused.code, "message": "refused"}).encode()
                if len(outer.requests) - 1 == outer.fails_at:  # done, and nobody hears of it
                    return self.connection.close()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

        self._listening = Listening(Handler)
        self.url = self._listening.url

    def close(self) -> None:
        self._listening.close()

    def answer(self, method: str, target: str, body: bytes) -> bytes:
        parts = urlsplit(target)
        path = unquote(parts.path)
        given: dict[str, Any] = dict(parse_qsl(parts.query))
        if path.startswith(_FILES):
            name = path.removeprefix(_FILES).lstrip("/")
            if method == "PUT":
                self.files[name] = body
                return b"{}"
            if not name:
                return json.dumps({"files": self._listed(given["path"], "")}).encode()
            if name not in self.files:
                raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
            return self.files[name]
        given |= json.loads(body or b"{}")
        return json.dumps(getattr(self, re.sub(r"\W", "_", path.removeprefix(_API)))(given)).encode()

    def _listed(self, folder: str, base: str) -> list[dict[str, Any]]:
        below = {name.removeprefix(f"{folder}/"): len(data) for name, data in self.files.items() if name.startswith(f"{folder}/")}
        files = [{"path": base + name, "is_dir": False, "file_size": size} for name, size in below.items() if "/" not in name]
        return files + [{"path": base + name, "is_dir": True} for name in {name.partition("/")[0] for name in below if "/" in name}]

    def experiments_get_by_name(self, given: Any) -> Any:
        if given["experiment_name"] not in self.experiments:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        return {"experiment": {"experiment_id": self.experiments[given["experiment_name"]]}}

    def experiments_create(self, given: Any) -> Any:
        if given["name"] in self.experiments:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS")
        self.experiments[given["name"]] = str(len(self.experiments) + 1)
        return {"experiment_id": self.experiments[given["name"]]}

    def runs_search(self, given: Any) -> Any:
        tag, value = re.fullmatch(r'tags\."(.*)" = \'(.*)\'', given["filter"]).groups()
        return {"runs": [{"info": run["info"]} for run in self._of(given["experiment_ids"]) if run["tags"].get(tag) == value][:1]}

    def _of(self, experiment_ids: list[str]) -> list[dict[str, Any]]:
        return [run for run in self.runs.values() if run["info"]["artifact_uri"].split("/")[1] in experiment_ids]

    def runs_create(self, given: Any) -> Any:
        run_id = f"{len(self.runs) + 1:032x}"
        info = {
            "run_id": run_id,
            "run_name": given["run_name"],
            "artifact_uri": f"mlflow-artifacts:/{given['experiment_id']}/{run_id}/artifacts",
        }
        self.runs[run_id] = {"info": info, "tags": {}, "params": {}, "metrics": set(), "inputs": []}
        self.runs_log_batch({"run_id": run_id, "tags": given["tags"]})
        return {"run": {"info": info}}

    def runs_get(self, given: Any) -> Any:
        return {"run": {"info": self.runs[given["run_id"]]["info"]}}

    def runs_log_batch(self, given: Any) -> Any:
        run = self.runs[given["run_id"]]
        if len(given.get("metrics", ())) > 1000 or len(given.get("params", ())) > 100 or len(given.get("tags", ())) > 100:
            raise Refused(400, "INVALID_PARAMETER_VALUE")
        for item in given.get("params", ()):
            if run["params"].setdefault(item["key"], item["value"]) != item["value"]:
                raise Refused(400, "INVALID_PARAMETER_VALUE")
        run["tags"] |= {item["key"]: item["value"] for item in given.get("tags", ())}
        run["metrics"] |= {(item["key"], item["value"], item["step"], item["timestamp"]) for item in given.get("metrics", ())}
        return {}

    def runs_log_inputs(self, given: Any) -> Any:
        self.runs[given["run_id"]]["inputs"] = given["datasets"]
        return {}

    def runs_update(self, given: Any) -> Any:
        self.runs[given["run_id"]]["status"] = given["status"]
        return {}

    def artifacts_list(self, given: Any) -> Any:
        root = self.runs[given["run_id"]]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        folder = given.get("path", "")
        return {"files": self._listed(f"{root}/{folder}".rstrip("/"), f"{folder}/" if folder else "")}

    def registered_models_create(self, given: Any) -> Any:
        if given["name"] in self.models:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS")
        self.models[given["name"]] = []
        return {}

    def model_versions_create(self, given: Any) -> Any:
        versions = self.models[given["name"]]
        versions.append({**given, "version": str(len(versions) + 1)})
        return {"model_version": versions[-1]}

    def model_versions_search(self, given: Any) -> Any:
        run_id = re.fullmatch(r"run_id = '(.*)'", given["filter"])[1]
        return {"model_versions": [item for versions in self.models.values() for item in versions if item["run_id"] == run_id]}

    def model_versions_get_download_uri(self, given: Any) -> Any:
        return {"artifact_uri": self.models[given["name"]][int(given["version"]) - 1]["source"]}
