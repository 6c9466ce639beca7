"""Starting children through a parent, and what happens when either dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.contract.events import Done, parse_event
from engine.process.environment import of_parent
from engine.process.launcher import Launcher, LaunchError
from engine.process.request import NAMESPACES, Request
from engine.process.sandbox.isolation import LAYERS
from tests.engine.process.conftest import CHILDREN, Ended, result_of, run_to_end
from tests.processes import alive, gone, outside

Run = Callable[..., Ended]


def company(launcher: Launcher, directory: Path) -> list[int]:
    """Process ids of a child that stays, and of the one that it started."""
    child = launcher.start(Request(directory, entry=f"{CHILDREN}:wait_with_company", layers=LAYERS))
    with open(child.events, "rb", closefd=False) as events:
        pids: list[int] = result_of(parse_event(events.readline()), directory)["pids"]
    child.close()
    assert all(alive(pid) for pid in pids)
    return pids


def test_what_is_preloaded_starts_no_thread() -> None:
    """One would not survive the fork: every job would then import all of it by itself, which takes seconds."""
    script = "from engine.process import warm; from engine.process.linux import thread_count; warm.preload(); print(thread_count())"
    done = subprocess.run([sys.executable, "-c", script], env=of_parent(os.environ), capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["1"], "")


def test_a_warm_child_trains_infers_and_starts_an_interpreter_inside_the_sandbox(tmp_path: Path) -> None:
    launcher = Launcher()
    try:
        launcher.warm_up()
        assert launcher.parent_pid is not None
        for attempt, layers in enumerate([(NAMESPACES, *LAYERS), LAYERS, (NAMESPACES, *LAYERS)]):  # each finds the parent as the first did
            assert len(os.listdir(f"/proc/{launcher.parent_pid}/task")) == 1
            directory = tmp_path / str(attempt)
            directory.mkdir()
            ended = run_to_end(launcher, Request(directory, entry=f"{CHILDREN}:train", layers=layers))
            assert ended.exit.returncode == 0, ended.log
            assert ended.result["losses"][-1] < ended.result["losses"][0]
            assert ended.result["relu"] == [[0.0] * 4]
            assert ended.result["fresh"] == "fine"
            assert ended.exit.cpu_seconds > 0
            assert ended.exit.peak_memory_bytes > 50 << 20
    finally:
        launcher.close()


def test_the_supervisors_side_loads_no_torch() -> None:
    code = "import sys, engine.process.launcher, engine.process.sandbox.probe; print(sorted({'torch', 'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_parent_that_dies_of_its_preload_is_replaced_by_a_cold_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "onnx.py").write_text("import os; os._exit(139)")
    root = str(Path(__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "broken"), root]))
    launcher = Launcher()
    try:
        ended = run_to_end(launcher, Request(tmp_path, entry=f"{CHILDREN}:surroundings", layers=LAYERS))
        assert ended.exit.returncode == 0
    finally:
        launcher.close()


@pytest.mark.parametrize("layers", [(), (NAMESPACES, *LAYERS)], ids=["tier 0", "tier 2"])
def test_how_a_child_ended_is_told(run: Run, layers: tuple[str, ...]) -> None:
    ended = run("crash", *layers)
    assert ended.exit.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in ended.log


def test_what_a_child_leaves_behind_is_killed(run: Run) -> None:
    assert gone(run("leave_one_behind", *LAYERS).result["pid"], seconds=1)


@pytest.mark.parametrize("layers", [LAYERS, (NAMESPACES, *LAYERS)], ids=["tier 1", "tier 2"])
def test_a_signal_reaches_the_whole_group(cold: Launcher, tmp_path: Path, layers: tuple[str, ...]) -> None:
    child = cold.start(Request(tmp_path, entry=f"{CHILDREN}:wait_with_company", layers=layers))
    with open(child.events, "rb", closefd=False) as events:
        pids = result_of(parse_event(events.readline()), tmp_path)["pids"]
    if NAMESPACES in layers:
        pids = [outside(pid) for pid in pids]
    assert all(alive(pid) for pid in (child.pid, *pids))
    child.signal(signal.SIGKILL)
    exit_ = child.wait(5)
    child.close()
    assert exit_ is not None
    assert exit_.returncode == -signal.SIGKILL
    assert gone(*pids)


def test_a_killed_parent_takes_its_children_along_and_is_replaced(cold: Launcher, run: Run, tmp_path: Path) -> None:
    run("crash")
    parent = cold.parent_pid
    assert parent is not None
    child = cold.start(Request(tmp_path, entry=f"{CHILDREN}:wait_with_company", layers=LAYERS))
    with open(child.events, "rb", closefd=False) as events:
        pids = result_of(parse_event(events.readline()), tmp_path)["pids"]
    os.kill(parent, signal.SIGKILL)
    exit_ = child.wait(5)
    child.close()
    assert exit_ is not None
    assert exit_.parent_lost
    assert gone(*pids)
    assert run("crash").exit.returncode == -signal.SIGSEGV
    assert cold.parent_pid not in (None, parent)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """A launcher of its own that waits half a second for an answer."""
    monkeypatch.setattr("engine.process.parent.ANSWER_TIMEOUT_SECONDS", 0.5)
    launcher = Launcher(warm=False)
    launcher.warm_up()
    try:
        yield launcher
    finally:
        launcher.close()


def test_a_parent_that_does_not_answer_is_replaced_and_what_it_forks_later_does_nothing(impatient: Launcher, tmp_path: Path) -> None:
    stopped = impatient.parent_pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    for number in range(2):  # the first one finds out, the second one knows
        ended = run_to_end(impatient, Request(tmp_path, entry=f"{CHILDREN}:sign_in", layers=LAYERS))
        assert ended.exit.returncode == 0
        assert (tmp_path / "signatures").read_text().count("x") == number + 1
        assert impatient.parent_pid not in (None, stopped)
    assert gone(stopped, seconds=5)  # nothing of it ran any more
    assert (tmp_path / "signatures").read_text() == "xx"


def test_a_request_that_was_given_up_is_not_run_when_the_parent_wakes(impatient: Launcher, tmp_path: Path) -> None:
    """It may not be killed at once: it has a child that goes on."""
    kept = impatient.start(Request(tmp_path, entry=f"{CHILDREN}:wait_with_company", layers=LAYERS))
    stopped = impatient.parent_pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    directory = tmp_path / "second"
    directory.mkdir()
    assert run_to_end(impatient, Request(directory, entry=f"{CHILDREN}:sign_in", layers=LAYERS)).exit.returncode == 0
    assert alive(stopped)
    assert kept.exit is None
    os.kill(stopped, signal.SIGCONT)
    assert kept.wait(1) is None  # it has forked the child that nobody waits for, meanwhile
    assert (directory / "signatures").read_text() == "x"
    kept.signal(signal.SIGKILL)
    assert kept.wait(5) is not None
    kept.close()
    assert gone(stopped, seconds=5)


@pytest.mark.parametrize("layers", [LAYERS, (NAMESPACES, *LAYERS)], ids=["tier 1", "tier 2"])
def test_the_end_of_a_child_is_known_though_its_parent_is_stopped(impatient: Launcher, tmp_path: Path, layers: tuple[str, ...]) -> None:
    child = impatient.start(Request(tmp_path, entry=f"{CHILDREN}:wait_for_file", layers=layers))
    stopped = impatient.parent_pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    (tmp_path / "go").touch()
    with open(child.events, "rb", closefd=False) as events:
        assert isinstance(parse_event(events.readlines()[-1]), Done)
    exit_ = child.collect(10)
    child.close()
    assert exit_ is not None
    assert (exit_.returncode, exit_.parent_lost) == (7, False)
    assert gone(stopped, seconds=5)
    assert run_to_end(impatient, Request(tmp_path, entry=f"{CHILDREN}:sign_in", layers=LAYERS)).exit.returncode == 0


def test_a_listener_that_fails_takes_its_parent_along(
    impatient: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    child = impatient.start(Request(tmp_path, entry=f"{CHILDREN}:wait_with_company", layers=LAYERS))
    with monkeypatch.context() as broken:
        broken.setattr("engine.process.parent.json.loads", lambda _: {})
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(LaunchError):
            impatient.start(Request(other, entry=f"{CHILDREN}:sign_in", layers=LAYERS))
    exit_ = child.wait(5)
    child.close()
    assert exit_ is not None
    assert exit_.parent_lost
    assert "KeyError" in capfd.readouterr().err
    assert run_to_end(impatient, Request(other, entry=f"{CHILDREN}:sign_in", layers=LAYERS)).exit.returncode == 0


@pytest.mark.parametrize("stopped", [False, True], ids=["parent running", "parent stopped"])
def test_a_killed_supervisor_leaves_no_process(tmp_path: Path, stopped: bool) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from engine.process.launcher import Launcher\n"
        "from tests.engine.process.test_launcher import company\n"
        "launcher = Launcher(warm=False)\n"
        "print(*company(launcher, Path(sys.argv[1])), launcher.parent_pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    child, grandchild, parent = map(int, supervisor.stdout.readline().split())
    if stopped:
        os.kill(parent, signal.SIGSTOP)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    if stopped:
        os.kill(parent, signal.SIGCONT)
    assert gone(parent, child, grandchild)
