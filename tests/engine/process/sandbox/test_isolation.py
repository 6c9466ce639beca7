"""The confinement of a job child, tried from inside."""

import json
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import engine
from engine.contract.events import Failed
from engine.process.launcher import Launcher
from engine.process.request import NAMESPACES, Request
from engine.process.sandbox.attempts import BEYOND_TIER_1
from engine.process.sandbox.isolation import LAYERS
from engine.process.sandbox.probe import choose, probe
from tests.engine.process.conftest import Ended, run_to_end

Run = Callable[..., Ended]


def opened(answers: Mapping[str, str] | None) -> set[str]:
    """The lines that are not held."""
    assert answers is not None
    return {name for name, answer in answers.items() if answer == "open"}


def test_the_strongest_tier_that_the_kernel_has_is_chosen_and_holds_every_line(cold: Launcher) -> None:
    has_namespaces = subprocess.run(["unshare", "--user", "--pid", "--fork", "true"], check=False).returncode == 0
    isolation = choose(cold)
    assert isolation.tier == (2 if has_namespaces else 1)
    assert opened(isolation.probe) <= (set() if has_namespaces else BEYOND_TIER_1)
    assert len(isolation.probe) >= 28
    assert ("process_namespace" in isolation.to_json()["layers"]) == has_namespaces


def test_tier_1_leaves_open_what_the_documentation_says_and_nothing_else(cold: Launcher) -> None:
    assert opened(probe(cold, LAYERS)) == BEYOND_TIER_1
    assert opened(probe(cold, LAYERS, sockets="private")) == BEYOND_TIER_1
    assert choose(cold, gpu=True).tier == 1


def test_processes_of_a_job_that_speak_to_each_other_reach_nothing_else(cold: Launcher) -> None:
    """They had a loopback device, or the probe would not have answered; the supervisor's port on it is not theirs."""
    alone = choose(cold)
    isolation = alone.of_several()
    assert (isolation.tier, isolation.sockets) == (alone.tier, "private")
    assert opened(isolation.probe) == opened(alone.probe)
    assert "network_namespace" in isolation.to_json()["layers"]


@pytest.mark.parametrize(
    ("layers", "missed"),
    [
        (
            ("landlock",),
            {"unix_socket", "chmod_outside", "touch_outside", "watch_other_job", "leave_group", "user_namespace", "outlive_supervisor"}
            | {"shared_memory_of_other", "memory_without_owner"},
        ),
        (("seccomp",), {"read_other_job", "list_other_job", "read_accounts", "write_outside", "run_own_program", "network_of_machine"}),
        ((), {"read_other_job", "tcp_connect", "unix_socket", "signal_other", "leave_group", "touch_outside", "limit_other"}),
        ((NAMESPACES,), {"leave_group", "memory_without_owner"}),
    ],
)
def test_the_probe_sees_what_a_missing_layer_leaves_open(cold: Launcher, layers: tuple[str, ...], missed: set[str]) -> None:
    assert missed <= opened(probe(cold, layers))


def test_a_work_folder_that_the_rules_would_open_is_found_by_the_probe(cold: Launcher) -> None:
    for layers in (LAYERS, (NAMESPACES, *LAYERS)):
        assert "read_other_job" in opened(probe(cold, layers, Path(sys.prefix)))  # readable to every child


def test_a_work_folder_in_the_source_checkout_is_as_closed_as_any_other(cold: Launcher) -> None:
    """`make serve` keeps its state in the folder `data` beside the packages."""
    with tempfile.TemporaryDirectory(dir=Path(engine.__file__).parents[1], prefix="data-") as place:
        assert opened(probe(cold, LAYERS, Path(place))) == BEYOND_TIER_1
        assert opened(probe(cold, (NAMESPACES, *LAYERS), Path(place))) == set()


def test_signals_can_be_held_without_landlock(run: Run) -> None:
    assert run("hold_signals").result == {"own": "open", "own_group": "open", "zero": "open", "parent": "denied", "everyone": "denied"}


def test_threads_that_no_layer_would_hold_fail_closed(cold: Launcher, tmp_path: Path) -> None:
    ended = run_to_end(cold, Request(tmp_path, entry="tests.engine.process.threaded:run", layers=LAYERS))
    (failed,) = ended.events
    assert isinstance(failed, Failed)
    assert failed.error.code == "isolation_unavailable"
    assert ended.exit.returncode == 1


@pytest.mark.parametrize("layers", [(), LAYERS, (NAMESPACES, *LAYERS)], ids=["tier 0", "tier 1", "tier 2"])
def test_a_child_inherits_nothing_but_its_own(run: Run, tmp_path: Path, layers: tuple[str, ...]) -> None:
    found = run("surroundings", *layers).result
    everything = json.dumps([found["environment"], found["own_environ"], found["parent_environ"]])
    assert "secret" not in everything
    assert "MODELPRESS" not in everything
    assert found["environment"]["TMPDIR"] == str(tmp_path / "tmp")
    assert found["environment"]["HOME"] == found["directory"] == str(tmp_path)
    assert set(found["descriptors"]) - {"4"} == {"0", "1", "2", "3"}  # 4 is the one that listed them
    assert found["stdin"] == ""
    assert found["session"] is True
    assert found["umask"] == stat.S_IRWXG | stat.S_IRWXO
    assert found["core"] == 0
    assert found["oom_score_adj"] > 0
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} <= {"0" * 16}


def test_memory_is_bounded(run: Run) -> None:
    taken = run("take_memory", memory_bytes=256 << 20).result["taken_bytes"]
    assert 64 << 20 <= taken <= 256 << 20


def test_processor_time_is_bounded_by_a_signal_that_tells_it_from_an_out_of_memory_kill(run: Run) -> None:
    assert run("burn", cpu_seconds=1).exit.returncode == -signal.SIGXCPU


def test_files_are_bounded(run: Run) -> None:
    assert run("write_much", file_bytes=1 << 20).result == {"error": "File too large"}
