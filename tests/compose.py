"""The services of docker-compose.yml as processes of this machine: same commands, same environment, other hosts, ports and folders."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<word>[^}]*))?\}")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """What `docker compose` makes of `${NAME:-default}` and `${NAME:?message}`. Raises KeyError for a variable that must be set."""

    def value(match: re.Match[str]) -> str:
        if found := variables.get(match["name"]):
            return found
        if match["kind"] != "-":
            raise KeyError(f"{match['name']}: {match['word']}")
        return match["word"]

    return _VARIABLE.sub(value, text)


class Compose:
    """The parsed file.

    Args:
        variables: What would stand in `.env`.
        places: What a name of the compose network, with its port, is here: `{"postgres:5432": "127.0.0.1:40001"}`.
    """

    def __init__(self, variables: Mapping[str, str], places: Mapping[str, str]) -> None:
        self.document: dict[str, Any] = yaml.safe_load(interpolate((ROOT / "docker-compose.yml").read_text(), variables))
        self.services: dict[str, Any] = self.document["services"]
        self._places = places

    def command(self, service: str) -> list[str]:
        """What the service's container runs; its image's own command where the file names none."""
        words: list[str] = self.services[service].get("command") or _image_command(self.services[service]["build"]["target"])
        programs = {"modelpress": [sys.executable, "-m", "cli.main"], "python": [sys.executable]}
        return [*programs[words[0]], *words[1:]]

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, with places of this machine."""
        found: dict[str, str] = dict(self.services[service]["environment"])
        for there, here in self._places.items():
            found = {name: value.replace(there, here) for name, value in found.items()}
        return found

    def run(self, service: str, *arguments: str, volume: Path) -> str:
        """Run a container of the service to its end, with its own command or another one of `modelpress`; returns what it printed.

        `volume` stands for the one at the containers' working directory.
        """
        command = [sys.executable, "-m", "cli.main", *arguments] if arguments else self.command(service)
        done = subprocess.run(command, env=self._whole_environment(service), cwd=volume, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, service: str, *, volume: Path, log: Path, port: int | None = None, **changes: str) -> "subprocess.Popen[bytes]":
        """Start a container of the service; one that listens does so on `port` of the loopback."""
        command = self.command(service)
        if port is not None:
            command[command.index("--port") + 1] = str(port)
            command[command.index("--host") + 1] = "127.0.0.1"
        with log.open("ab") as stream:
            environment = {**self._whole_environment(service), **changes}
            return subprocess.Popen(command, env=environment, cwd=volume, stdout=stream, stderr=stream)

    def _whole_environment(self, service: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELPRESS_", "AWS_"))}
        return {**kept, "PYTHONPATH": str(ROOT), **self.environment(service)}


def _image_command(target: str) -> list[str]:
    """The CMD of a stage of the Dockerfile."""
    stage = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM |\Z)", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL)
    assert stage is not None
    command = re.search(r"^CMD (\[.*\])$", stage[1], re.MULTILINE)
    assert command is not None
    words: list[str] = json.loads(command[1])
    return words
