"""The benchmark of the claims judges as it says, and trains on nothing that it stops or tests on."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.claims import __main__ as program
from benchmarks.claims import convnet
from benchmarks.claims.bench import Bench, shrunk
from benchmarks.claims.claim import Check, Claim, difference, one, quotient
from benchmarks.claims.table import NEW, line, updated
from engine.contract.metadata import ModelMetadata
from engine.contract.spec import parse
from engine.formats.loading import load_network

DIGITS = Path(__file__).parents[2] / "examples" / "digits.npz"
MEASURED = [{"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 2.0}]


@pytest.mark.parametrize(
    ("check", "ours", "passed"),
    [
        (Check("", "", difference("a", "b"), 0.5), 0.5, True),
        (Check("", "", difference("a", "b"), 0.51), 0.5, False),
        (Check("", "", quotient("a", "b"), 1.75, at_most=True), 1.75, True),
        (Check("", "", one("a"), 1.9, at_most=True), 2.0, False),
        (Check("", "", one("a"), 1.5, every_seed=True), 2.0, False),
        (Check("", "", one("a"), 1.0, every_seed=True), 2.0, True),
    ],
)
def test_a_check_compares_the_mean_or_every_seed(check, ours, passed):
    row = check.result("T0", MEASURED)
    assert (row["ours"], row["passed"], row["seeds"]) == (ours, passed, 2)
    assert {"id", "claim", "paper", "ours", "spread", "seeds", "margin", "passed"} <= row.keys()
    assert row["spread"] == pytest.approx(np.std(row["values"], ddof=1))
    assert f"{check.margin:g} | {'yes' if passed else '**no**'}" in line(row)


@pytest.mark.parametrize(("margin", "status"), [(1.0, 0), (3.0, 1)])
def test_the_exit_status_says_whether_every_claim_holds(tmp_path, monkeypatch, capsys, margin, status):
    claim = Claim("T0", lambda bench, seed: MEASURED[seed], (Check("a", "b", one("a"), margin), Check("b", "b", one("b"), 1.0)))
    monkeypatch.setattr(program, "CLAIMS", (claim,))
    monkeypatch.setattr("sys.argv", ["claims", "T0", "--seeds", "2", "--json", str(tmp_path / "deep" / "out.json")])
    assert program.main() == status
    rows = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert [row["passed"] for row in rows] == [status == 0, True]
    assert ("FAIL" in capsys.readouterr().out) == (status == 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["T0", "--json", "x.json"],
        ["--seeds", "0", "--json", "x.json"],
        ["T5"],
        ["--data", "none.npz", "--json", "x"],
        ["--data", "small.npz", "--json", "x"],
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    digits = np.zeros((4, 20, 20), np.uint8)
    np.savez("small.npz", x_train=digits, y_train=np.arange(4), x_test=digits, y_test=np.arange(4))
    monkeypatch.setattr("sys.argv", ["claims", *arguments])
    monkeypatch.setattr(program, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_every_claim_of_the_issue_is_there_and_measured_for_every_seed(tmp_path):
    assert [claim.id for claim in program.CLAIMS] == [
        "T1",
        "T1b",
        "T1c",
        "T2",
        "T3",
        "T4",
        "T5",
        "T7",
        "T8",
        "T9",
        "T10",
        "T11",
        "T6",
        "T12",
        "T13",
    ]
    seen = []
    claim = Claim("T0", lambda bench, seed: seen.append(seed) or {"a": 1.0}, (Check("", "", one("a"), 1),), alone=True)
    rows = program.measure([claim], Bench(tmp_path, DIGITS, full=False), 3)
    assert seen == [0, 1, 2]
    assert rows[0]["seeds"] == 3


class Read(Exception):
    """A job got as far as its spec."""


@pytest.mark.parametrize("claim", program.CLAIMS, ids=lambda claim: claim.id)
@pytest.mark.parametrize("full", [False, True], ids=["quick", "full"])
def test_the_spec_of_a_claim_is_one_that_the_engine_takes(tmp_path, monkeypatch, claim, full):
    def read(self, name, steps, *, seed, model, size=28, **spec):
        parsed, problems = parse({"model": "mdl_x", "dataset": "ds_x", "seed": seed, "steps": list(steps), **spec})
        assert parsed is not None, problems
        load_network(model, "onnx" if model.suffix == ".onnx" else "architecture", ModelMetadata(), tmp_path)
        raise Read

    monkeypatch.setattr(Bench, "run", read)
    with pytest.raises(Read):
        claim.measure(Bench(tmp_path, DIGITS, full=full), 0)


def test_training_and_validation_digits_are_drawn_with_the_seed_and_share_none(tmp_path):
    bench, stored = Bench(tmp_path, DIGITS, full=False), np.load(DIGITS)
    first, other = (np.load(bench.digits(seed)) for seed in (0, 1))
    assert {name: len(first[name]) for name in ("x_train", "x_validation", "x_test")} == {
        "x_train": 4000, "x_validation": 1000, "x_test": len(stored["x_test"])
    }  # fmt: skip
    assert not np.array_equal(first["x_train"], other["x_train"])
    pixels = {image.tobytes() for image in first["x_train"]}
    twins = sum(image.tobytes() in pixels for image in first["x_validation"])
    assert twins == 0
    assert np.array_equal(first["x_test"], stored["x_test"])
    assert len(np.load(Bench(tmp_path / ".", DIGITS, full=True).digits(7))["x_train"]) == len(stored["x_train"])


def test_of_fewer_digits_a_fifth_is_for_validation(tmp_path):
    digits, labels = np.zeros((40, 28, 28), np.uint8), np.arange(40)
    np.savez(tmp_path / "few.npz", x_train=digits, y_train=labels, x_test=digits, y_test=labels)
    drawn = np.load(Bench(tmp_path, tmp_path / "few.npz", full=False).digits(0))
    assert (len(drawn["y_train"]), len(drawn["y_validation"])) == (32, 8)
    assert sorted((*drawn["y_train"], *drawn["y_validation"])) == labels.tolist()


def test_a_bar_in_a_claim_is_no_border_of_the_table():
    row = Check("Σ|w|", "", one("a"), 1.0).result("T0", MEASURED)
    assert r"| T0 | Σ\|w\| |" in line(row)


def test_rows_of_the_claims_that_were_measured_are_replaced_and_all_else_stays():
    rows = {name: Check(name, "", one("a"), 1.0).result(name, MEASURED) for name in ("T0", "T1")}
    page = updated(NEW.replace("# Claims", "# Own words"), [rows["T1"], rows["T0"]], ["T0", "T1"])
    assert page.startswith("# Own words")
    assert page.index("| T0 |") < page.index("| T1 |")
    again = updated(page, [{**rows["T0"], "ours": 7.5}], ["T0", "T1"])
    assert line(rows["T1"]) in again
    assert line(rows["T0"]) not in again
    assert "7.50 ± 1.41" in again
    with pytest.raises(ValueError, match="no table"):
        updated("# A page", [], [])
    assert updated((DIGITS.parents[1] / "docs" / "claims.md").read_text(), [], [claim.id for claim in program.CLAIMS])


def test_smaller_digits_are_means_of_patches():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert shrunk(image, 2).tolist() == [[[2, 4], [10, 12]]]
    assert np.array_equal(shrunk(image, 4), image)


def test_the_network_of_the_comparison_trains_with_its_batch_normalization(tmp_path):
    module = load_network(convnet.write(tmp_path / "net.onnx"), "onnx", ModelMetadata(), tmp_path).module
    assert sum(type(layer).__name__ == "BatchNorm2d" for layer in module.modules()) == 3
