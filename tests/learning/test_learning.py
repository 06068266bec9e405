"""Learning on the fly, with a model as the calculator: it answers at once, and knows what it was asked."""

import json
import os
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase import Atoms
from support.oracles import calls_of, write_oracle

from fastgdml.cli import main
from fastgdml.dataset import load_dataset
from fastgdml.errors import DataError, FileFormatError, SolverError, UsageError
from fastgdml.learning import Files, LearnOptions, learn
from fastgdml.learning.records import CONTROL, EARLY, FAILED, Records
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict

# Short stretches of trajectory: what is tested is what happens between them.
OPTIONS = LearnOptions(max_calls=24, interval=60, n_control=6, target_mae=1e-6, sig=20.0, seed=3, max_processes=1)


@pytest.fixture
def here(tmp_path, monkeypatch, ethanol, ethanol_model):
    """A folder with a geometry of ethanol and a calculator that knows it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "oracle", raising=False)
    save_model("oracle.npz", {**ethanol_model, "e_unit": "kcal/mol", "r_unit": "Ang"})
    start = ethanol["R"][np.argmin(ethanol["E"])]
    ase.io.write("start.xyz", Atoms(ethanol["z"], start))
    write_oracle(tmp_path)
    return tmp_path


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("call-")}


def records(folder):
    return Records(folder, json.loads((folder / "settings.json").read_text())).calls


def test_what_remains(here):
    learned = learn("start.xyz", "m.npz", "oracle:make", OPTIONS)
    assert (learned.n_calls, learned.reached, learned.unit) == (24, False, "kcal/mol/Ang")
    assert len(calls_of(here)) == 24 == len(set(calls_of(here)))
    dataset, model, calls = load_dataset(learned.dataset), load_model("m.npz"), records(here / "m-learn")
    assert len(dataset["R"]) == 24
    assert (str(dataset["e_unit"]), str(dataset["r_unit"])) == ("kcal/mol", "Ang")
    # labels are those of the calculator
    E, F = GDMLPredict("oracle.npz").predict(dataset["R"].reshape(24, -1))
    np.testing.assert_allclose(dataset["E"], E, rtol=0, atol=1e-6 * np.ptp(E))
    np.testing.assert_allclose(dataset["F"].reshape(24, -1), F, atol=1e-6 * np.abs(F).max())
    # and the model was trained on them
    used = [i for i, call in enumerate(calls) if call.is_used]
    np.testing.assert_array_equal(model["idxs_train"], used)
    assert str(np.asarray(model["md5_train"])) == str(dataset["md5"])
    assert learned.n_train == len(used) > 15
    E, F = GDMLPredict(model).predict(dataset["R"][used].reshape(len(used), -1))
    assert np.sqrt(np.mean((F - dataset["F"][used].reshape(len(used), -1)) ** 2)) < 0.3 * learned.control.rmse
    # errors that are told are those of predictions made before the labels were known
    controls = [call for call in calls if call.why == CONTROL][-6:]
    assert learned.control.n == 6
    assert learned.control.mae == pytest.approx(np.mean([call.mae for call in controls]))
    assert float(model["f_err_mae"]) == learned.control.mae
    assert learned.control.e_rmse == pytest.approx(np.sqrt(np.mean([call.e_error**2 for call in controls])))
    assert float(model["e_err_rmse"]) == learned.control.e_rmse < 5
    table = learned.calls.read_text().splitlines()
    assert len(table) == 25
    assert table[1].startswith("1,start,used,0,")
    page = learned.report.read_text()
    assert "24 calls of the calculator" in page
    assert f"MAE {learned.control.mae:.4f}" in page


def test_it_learns(here):
    """Errors of predictions made before the labels were known fall to the target, and it stops there."""
    options = LearnOptions(max_calls=120, interval=100, n_control=6, target_mae=1.5, seed=1, max_processes=1)
    learned = learn("start.xyz", "m.npz", "oracle:make", options)
    assert learned.reached
    assert learned.n_calls < 120
    calls = records(here / "m-learn")
    errors = [call.mae for call in calls if call.why == CONTROL]
    assert np.mean(errors[-6:]) <= 1.5 < np.mean(errors[-7:-1])
    # the same again is finished at once
    again = learn("start.xyz", "m.npz", "oracle:make", options)
    assert (again.n_calls, again.control) == (learned.n_calls, learned.control)
    assert len(calls_of(here)) == learned.n_calls
    # and a smaller target goes on from there
    more = LearnOptions(
        max_calls=learned.n_calls + 3, interval=100, n_control=6, target_mae=1e-6, seed=1, max_processes=1
    )
    assert learn("start.xyz", "m.npz", "oracle:make", more).n_calls == learned.n_calls + 3


def test_a_run_that_was_cut_after_any_call_is_the_same(here):
    """The files of the calls are the whole state: from any of them on, the same calls follow."""
    learn("start.xyz", "whole.npz", "oracle:make", OPTIONS)
    whole = files_of(here / "whole-learn")
    for n in (1, 7, 10, 11, 16, 23):
        folder = here / f"cut{n}-learn"
        folder.mkdir()
        (folder / "settings.json").write_bytes((here / "whole-learn" / "settings.json").read_bytes())
        for name in sorted(whole)[:n]:
            (folder / name).write_bytes(whole[name])
        before = len(calls_of(here))
        learn("start.xyz", f"cut{n}.npz", "oracle:make", OPTIONS)
        assert len(calls_of(here)) == before + 24 - n
        a, b = records(here / "whole-learn"), records(folder)
        assert [(c.why, c.outcome, c.n_train, c.sig) for c in a] == [(c.why, c.outcome, c.n_train, c.sig) for c in b]
        np.testing.assert_array_equal([c.R for c in a], [c.R for c in b])
        one, other = load_model("whole.npz"), load_model(f"cut{n}.npz")
        np.testing.assert_array_equal(one["alphas_F"], other["alphas_F"])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_goes_on_without_a_call_again(how, here):
    command = [sys.executable, "-c", "import sys; from fastgdml.cli import main; sys.exit(main())"]
    command += ["learn", "start.xyz", "--calculator", "oracle:make", "-o", "m.npz"]
    command += ["--interval", "50", "--target-mae", "1e-6", "-p", "1", "-s", "20", "--max-calls"]
    rng = np.random.default_rng(int(how))
    for _ in range(2):
        known = len(calls_of(here))
        process = subprocess.Popen(
            [*command, "400"], cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wanted = known + int(rng.integers(3, 10))
        while len(calls_of(here)) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(how)
        _, err = process.communicate(timeout=300)
        assert process.returncode == (130 if how == signal.SIGINT else -how), err
    # the call that was under way when the program died is the only one that may be made again
    under_way = len(calls_of(here)) - len(files_of(here / "m-learn"))
    assert under_way <= 2
    total = len(files_of(here / "m-learn")) + 6
    done = subprocess.run([*command, str(total)], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(files_of(here / "m-learn")) == total
    assert len(calls_of(here)) == total + under_way
    assert len(set(calls_of(here))) == total
    assert "none is repeated" in done.stdout


def test_calls_that_fail_are_stepped_back_from(here, caplog):
    write_oracle(here, fails_at=(4, 15, 16), name="failing")
    with caplog.at_level("WARNING", "fastgdml"):
        learned = learn("start.xyz", "m.npz", "failing:make", OPTIONS)
    calls = records(here / "m-learn")
    assert [call.number for call in calls if call.outcome == FAILED] == [4, 15, 16]
    assert "Call 15 failed (RuntimeError: no convergence in call 15)" in caplog.text
    assert learned.n_calls == 24 == len(calls_of(here))  # they count, and none was tried again
    assert len(set(calls_of(here))) == 24
    assert len(load_dataset(learned.dataset)["R"]) == 21
    # back to the last good label, and a label half as far from there
    good = calls[13].state
    np.testing.assert_array_equal(calls[14].state.R, good.R)
    assert calls[14].state.stride < good.stride
    assert calls[15].state.stride < calls[14].state.stride
    assert calls[15].state.n_back == 2
    assert calls[16].why == EARLY
    assert calls[16].state.n_back == 0
    assert "3 failed in the calculator" in learned.report.read_text()


def test_a_calculator_that_always_fails_ends_the_run(here):
    write_oracle(here, fails_at=tuple(range(1, 100)), name="never")
    with pytest.raises(SolverError, match=r"failed for the geometry to start from: RuntimeError: no convergence"):
        learn("start.xyz", "m.npz", "never:make", OPTIONS)
    assert not (here / "m.npz").exists()
    # nothing is known yet, so that anything may be changed
    learn("start.xyz", "m.npz", "oracle:make", LearnOptions(temperature=300, max_calls=10, sig=20.0, max_processes=1))
    write_oracle(here, fails_at=tuple(range(15, 100)), name="no_more")
    (here / "calls.txt").unlink()
    options = LearnOptions(max_calls=60, interval=60, target_mae=1e-6, sig=20.0, seed=3, max_processes=1)
    with pytest.raises(SolverError, match=r"broke 12 times in a row"):
        learn("start.xyz", "n.npz", "no_more:make", options)
    assert len(files_of(here / "n-learn")) == 25


BAD = {
    "several frames": (
        "several.xyz",
        "oracle:make",
        "m.npz",
        UsageError,
        r"holds 3 geometries; learning starts from one",
    ),
    "no frames": ("empty.xyz", "oracle:make", "m.npz", FileFormatError, r"empty\.xyz"),
    "one atom": ("atom.xyz", "oracle:make", "m.npz", DataError, r"holds a single atom"),
    "no file": ("none.xyz", "oracle:make", "m.npz", FileFormatError, r"none\.xyz"),
    "no module": ("start.xyz", "nowhere:make", "m.npz", UsageError, r"'nowhere:make' cannot be imported"),
    "no factory": ("start.xyz", "oracle:nothing", "m.npz", UsageError, r"'oracle:nothing' cannot be imported"),
    "no calculator": ("start.xyz", "oracle", "m.npz", UsageError, r"'oracle' names no calculator: give module:name"),
    "failing factory": ("start.xyz", "os:listdir_", "m.npz", UsageError, r"cannot be imported"),
    "too few calls": ("start.xyz", "oracle:make", "m.npz", UsageError, r"the first model takes 10 calls"),
    "output is a dataset": (
        "start.xyz",
        "oracle:make",
        "data.npz",
        FileFormatError,
        r"is a dataset, and is never replaced",
    ),
    "output is no npz": ("start.xyz", "oracle:make", "m.txt", UsageError, r"'m\.txt' must end in \.npz"),
    "output is there": ("start.xyz", "oracle:make", "oracle.npz", UsageError, r"'oracle\.npz' exists"),
    "no such folder": ("start.xyz", "oracle:make", "a/b/m.npz", FileFormatError, r"there is no folder 'a/b'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_said_in_a_line(kind, here, ethanol, capsys):
    ase.io.write("several.xyz", [Atoms(ethanol["z"], r) for r in ethanol["R"][:3]])
    (here / "empty.xyz").write_text("")
    ase.io.write("atom.xyz", Atoms("H", [[0, 0, 0]]))
    np.savez("data.npz", type="d", z=ethanol["z"], R=ethanol["R"][:3], F=ethanol["F"][:3])
    start, calculator, output, error, text = BAD[kind]
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    calls = 9 if kind == "too few calls" else 24
    with pytest.raises(error, match=text):
        learn(start, output, calculator, LearnOptions(max_calls=calls, max_processes=1))
    assert main(["learn", start, "--calculator", calculator, "-o", output, "--max-calls", str(calls), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if line.startswith("[FAIL]")]) == 1
    after = {path: path.read_bytes() for path in here.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert before == after


@pytest.mark.parametrize("change", ["atoms", "temperature", "calculator", "units", "sigma"])
def test_the_state_of_another_run_is_refused(change, here, capsys):
    options = LearnOptions(max_calls=10, interval=60, sig=20.0, max_processes=1)
    learn("start.xyz", "m.npz", "oracle:make", options)
    before = {path.name: path.read_bytes() for path in (here / "m-learn").iterdir()}
    command = [
        "start.xyz",
        "--calculator",
        "oracle:make",
        "-o",
        "m.npz",
        "--max-calls",
        "10",
        "--interval",
        "60",
        "-s",
        "20",
    ]
    assert main(["learn", *command, "--quiet"]) == 0
    if change == "atoms":
        ase.io.write("start.xyz", Atoms("OH2", [[0, 0, 0], [0, 0, 0.96], [0, 0.93, -0.24]]))
    elif change == "calculator":
        write_oracle(here, name="second")
        command[2] = "second:make"
    else:
        command += {"temperature": ["-T", "300"], "units": ["--to", "eV"], "sigma": ["-s", "30"]}[change]
    assert main(["learn", *command, "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "holds a run of something else" in said
    assert {path.name: path.read_bytes() for path in (here / "m-learn").iterdir()} == before


def test_a_damaged_folder_is_named(here):
    learn("start.xyz", "m.npz", "oracle:make", OPTIONS)
    folder = here / "m-learn"
    third = (folder / "call-000003.npz").read_bytes()
    (folder / "call-000003.npz").unlink()
    with pytest.raises(FileFormatError, match=r"'call-000003\.npz' is missing"):
        learn("start.xyz", "m.npz", "oracle:make", OPTIONS)
    (folder / "call-000003.npz").write_bytes(third[: len(third) // 2])
    with pytest.raises(FileFormatError, match=r"call-000003\.npz"):
        learn("start.xyz", "m.npz", "oracle:make", OPTIONS)
    (folder / "call-000003.npz").write_bytes(third)
    (folder / "settings.json").write_text("[]")
    with pytest.raises(FileFormatError, match=r"settings\.json"):
        learn("start.xyz", "m.npz", "oracle:make", OPTIONS)


def test_units_of_choice(here):
    """The same run in eV and Bohr gives the same geometries, and labels in these units."""
    files = Files(e_unit="eV", to_r_unit="Bohr")
    learned = learn("start.xyz", "ev.npz", "oracle:make", LearnOptions(max_calls=10, sig=20.0, max_processes=1), files)
    other = learn("start.xyz", "kcal.npz", "oracle:make", LearnOptions(max_calls=10, sig=20.0, max_processes=1))
    a, b = load_dataset(learned.dataset), load_dataset(other.dataset)
    assert (str(a["e_unit"]), str(a["r_unit"])) == ("eV", "Bohr")
    bohr, kcal = 0.529177210903, 0.043364104241800934
    np.testing.assert_allclose(a["R"] * bohr, b["R"], rtol=1e-9)
    np.testing.assert_allclose(a["E"], b["E"] * kcal, rtol=1e-9)
    np.testing.assert_allclose(a["F"], b["F"] * kcal * bohr, rtol=1e-8, atol=1e-8)


def test_a_crystal(here):
    """A periodic cell goes into labels, trajectory and model."""
    from ase.build import fcc111
    from ase.calculators.emt import EMT

    sheet = fcc111("Cu", (3, 3, 1), vacuum=8)
    sheet.pbc = True
    ase.io.write("copper.traj", sheet)
    options = LearnOptions(temperature=300, max_calls=16, interval=40, use_sym=False, target_mae=1e-6, max_processes=1)
    learned = learn("copper.traj", "cu.npz", EMT, options)
    dataset, model = load_dataset(learned.dataset), load_model("cu.npz")
    assert dataset["lattice"].shape == model["lattice"].shape == (3, 3)
    np.testing.assert_allclose(model["lattice"], sheet.cell.array.T, atol=1e-9)
    assert len(dataset["R"]) == 16
    assert learned.control.mae < 0.3 * np.abs(dataset["F"]).mean()


def test_two_runs_in_one_folder_do_not_meet(here):
    from fastgdml.task_folder import locked

    with locked(here / "m-learn", make=True), pytest.raises(UsageError, match=r"Another fastgdml is working"):
        learn("start.xyz", "m.npz", "oracle:make", OPTIONS)


def test_command(here, capsys):
    command = [
        "learn",
        "start.xyz",
        "--calculator",
        "oracle:make",
        "-o",
        "m.npz",
        "--max-calls",
        "12",
        "--interval",
        "40",
    ]
    assert main([*command, "-p", "1"]) == 0
    out = capsys.readouterr()
    assert "Errors and the target are in kcal/mol/Ang." in out.out
    assert "12 of the calculator" in out.out
    assert "is not met. The same command with more --max-calls goes on" in out.err
    command[command.index("12")] = "14"
    assert main([*command, "-p", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in lines[:-1]] == [13, 14]
    assert lines[-1]["n_calls"] == 14
    assert os.path.exists(lines[-1]["report"])
