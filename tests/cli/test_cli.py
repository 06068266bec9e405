import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastgdml.cli import main
from fastgdml.cli.values import int_or_range
from fastgdml.dataset import create_dataset, load_dataset, save_dataset
from fastgdml.model import load_model
from fastgdml.npz import load_npz, save_npz
from fastgdml.predict import GDMLPredict
from fastgdml.task import load_task

FINAL = "ethanol-gfn2-xtb-train30-sym6.npz"
FOLDER = "sgdml_cv_ethanol-gfn2-xtb-train30-sym"
SMALL = ["ethanol", "30", "40", "--seed", "3", "-s", "10", "20"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return main([str(a) for a in args])


def files():
    return sorted(str(p.relative_to(".")) for p in Path(".").rglob("*") if p.is_file())


def test_all_gives_a_model_that_predicts(capsys):
    assert run("all", "ethanol", 30, 40, 50, "--seed", 3, "-s", "10:10:40") == 0
    out = capsys.readouterr().out
    assert files() == [FINAL]
    for expected in ("Seed: 3", "found 6 symmetries", "Task 1 of 4", "<- best", "Test errors", "Angle", FINAL):
        assert expected in out
    model = load_model(FINAL)
    assert int(model["n_test"]) == 50
    dataset = load_dataset("ethanol")
    _, F = GDMLPredict(model).predict(dataset["R"].reshape(2000, -1))
    assert np.abs(F - dataset["F"].reshape(F.shape)).mean() == pytest.approx(float(model["f_err_mae"]), rel=0.2)


def test_same_seed_same_files(tmp_path):
    contents = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        os.chdir(tmp_path / folder)
        assert run("all", *SMALL[:3], 50, *SMALL[3:], "-p", 1) == 0
        contents.append(Path(FINAL).read_bytes())
    os.chdir(tmp_path)
    assert contents[0] == contents[1]


def test_step_by_step(capsys):
    assert run("create", *SMALL) == 0
    assert files() == [f"{FOLDER}/task-train30-sym6-sig0010.npz", f"{FOLDER}/task-train30-sym6-sig0020.npz"]
    assert run("train", FOLDER, "ethanol") == 0
    assert f"{FOLDER}/model-train30-sym6-sig0010.npz" in files()
    assert "fastgdml select" in capsys.readouterr().out
    assert run("validate", FOLDER, "ethanol") == 0
    assert "validated already" in capsys.readouterr().out
    assert run("validate", "-o", FOLDER, "ethanol") == 0
    assert run("select", FOLDER, "--model_file", "final") == 0
    assert files() == ["final.npz"]
    assert run("test", "final.npz", "ethanol", 100) == 0
    assert int(load_model("final.npz")["n_test"]) == 100
    assert run("test", "final.npz", "ethanol", 50) == 0
    assert "tested before on 100 points" in capsys.readouterr().err
    assert int(load_model("final.npz")["n_test"]) == 100
    assert run("test", "-o", "final.npz", "ethanol", 50) == 0
    assert int(load_model("final.npz")["n_test"]) == 50
    assert run("test", "final.npz", "ethanol") == 0
    assert int(load_model("final.npz")["n_test"]) == 2000 - 30 - 40


def test_selection_takes_the_lowest_force_rmse():
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    models = [load_model(path) for path in Path(FOLDER).glob("model-*.npz")]
    assert len(models) == 2
    best = min(models, key=lambda m: float(m["f_err_rmse"]))
    assert run("select", FOLDER) == 0
    assert load_model(FINAL)["sig"] == best["sig"]


def test_selection_spares_other_files(capsys):
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    Path(FOLDER, "notes.txt").write_text("mine")
    assert run("select", FOLDER) == 0
    assert files() == [FINAL, f"{FOLDER}/notes.txt"]
    assert "holds other files" in capsys.readouterr().out


def test_tested_models_cannot_be_selected(capsys):
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    run("test", f"{FOLDER}/model-train30-sym6-sig0010.npz", "ethanol", 50)
    assert run("select", FOLDER) == 1
    assert "has been tested" in capsys.readouterr().err


def test_one_task_is_trained_without_validation(capsys):
    run("create", *SMALL)
    assert run("train", f"{FOLDER}/task-train30-sym6-sig0020.npz", "ethanol") == 0
    assert "needs no validation" in capsys.readouterr().out
    assert np.isnan(load_model(f"{FOLDER}/model-train30-sym6-sig0020.npz")["f_err_rmse"])


def test_lazy_skips_what_was_tried(capsys):
    run("create", *SMALL)
    tried = Path(FOLDER, "task-train30-sym6-sig0010.npz")
    save_npz(tried, {**load_task(tried), "tried_training": True})
    assert run("train", "--lazy", FOLDER, "ethanol") == 0
    assert "tried before" in capsys.readouterr().err
    assert not Path(FOLDER, "model-train30-sym6-sig0010.npz").exists()
    assert Path(FOLDER, "model-train30-sym6-sig0020.npz").exists()


def test_a_search_is_continued_or_refused(capsys):
    assert run("create", *SMALL) == 0
    before = {path: Path(path).read_bytes() for path in files()}
    assert run("create", "ethanol", 30, 40, "-s", "10:10:30") == 0  # without the seed: that of the search
    assert "Resuming" in capsys.readouterr().out
    assert {path: Path(path).read_bytes() for path in before} == before
    added = load_task(f"{FOLDER}/task-train30-sym6-sig0030.npz")
    first = load_task(f"{FOLDER}/task-train30-sym6-sig0010.npz")
    np.testing.assert_array_equal(added["idxs_train"], first["idxs_train"])
    for options, named in (
        (["ethanol", 30, 41, "-s", "10:10:30"], "n_valid"),
        (["ethanol", 30, 40, "-s", "10:10:30", "--seed", 4], "--seed"),
        (["ethanol", 30, 40, "-s", "10:10:30", "--lam", "1e-8"], "--lam"),
        (["ethanol", 30, 40, "-s", 10, 20], "--sig"),
        (["ethanol", 30, 40, "-s", "10:10:30", "--gdml", "--task_dir", FOLDER], "--gdml"),
        (["ethanol", 30, 40, "-s", "10:10:30", "--no_E", "--task_dir", FOLDER], "--no_E"),
    ):
        assert run("create", *options) == 1
        error = capsys.readouterr().err
        assert named in error
        assert "-o" in error
    assert run("create", "ethanol", 30, 40, "-s", 10, "--seed", 4, "-o") == 0
    assert files() == [f"{FOLDER}/task-train30-sym6-sig0010.npz"]
    assert load_task(files()[0])["seed"] == 4


def test_existing_models_are_not_overwritten(capsys):
    Path(FINAL).write_bytes(b"precious")
    assert run("all", *SMALL) == 1
    assert "never replaced" in capsys.readouterr().err
    assert Path(FINAL).read_bytes() == b"precious"
    assert files() == [FINAL]
    for options in ((), ("-o",)):  # it is no model
        assert run("all", *SMALL, "--model_file", FINAL[:-4], *options) == 1
        assert "is a text file, and is never replaced by a model" in capsys.readouterr().err
    assert Path(FINAL).read_bytes() == b"precious"
    assert run("all", *SMALL, "--model_file", "mine") == 0
    before = Path("mine.npz").read_bytes()
    assert run("all", *SMALL, "--model_file", "mine") == 1
    assert "exists (model). Give -o to overwrite it" in capsys.readouterr().err
    assert Path("mine.npz").read_bytes() == before
    assert run("all", *SMALL, "--model_file", "mine", "-o") == 0
    load_model("mine.npz")


def test_gdml_and_permutations_from_a_file():
    assert run("create", *SMALL, "--gdml") == 0
    path = "sgdml_cv_ethanol-gfn2-xtb-train30/task-train30-sym1-sig0010.npz"
    assert len(load_task(path)["perms"]) == 1
    assert run("create", *SMALL, "--perms_from", path) == 0
    assert len(load_task(f"{FOLDER}/task-train30-sym1-sig0010.npz")["perms"]) == 1


def test_separate_datasets_and_no_energies(capsys):
    dataset = load_dataset("ethanol")
    parts = {"train": slice(0, 500), "valid": slice(500, 1000), "test": slice(1000, 2000)}
    for name, part in parts.items():
        save_dataset(f"{name}.npz", create_dataset("eth", "x", dataset["z"], dataset["R"][part], dataset["F"][part]))
    assert run("all", "train.npz", 30, 40, "-v", "valid.npz", "-t", "test.npz", "--no_E", "-s", 20, "--seed", 0) == 0
    captured = capsys.readouterr()
    assert "points are drawn uniformly" in captured.err
    assert "Energy:" not in captured.out
    (model_file,) = Path(".").glob("eth-x-train30-sym*.npz")
    assert int(load_model(model_file)["n_test"]) == 1000


@pytest.mark.parametrize("what", ["dataset", "task", "model"])
def test_show(capsys, what):
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    capsys.readouterr()
    path = {
        "dataset": "ethanol",
        "task": f"{FOLDER}/task-train30-sym6-sig0010.npz",
        "model": f"{FOLDER}/model-train30-sym6-sig0010.npz",
    }[what]
    assert run("show", path) == 0
    out = capsys.readouterr().out
    assert f"{what.capitalize()} properties" in out
    assert "ethanol" in out
    assert {"dataset": "Range", "task": "Train on", "model": "Expected errors"}[what] in out
    assert "\0" not in out


def test_energy_constraints(capsys):
    folder = Path(f"{FOLDER}-Ecstr")
    assert run("create", *SMALL, "--E_cstr") == 0
    assert sorted(p.name for p in folder.iterdir()) == [f"task-train30-sym6-sig00{sig}.npz" for sig in (10, 20)]
    assert run("show", folder / "task-train30-sym6-sig0010.npz") == 0
    assert "pointwise constraints" in capsys.readouterr().out
    assert run("all", *SMALL) == 0  # a search of its own, without constraints
    without = load_model(FINAL)
    Path(FINAL).unlink()
    capsys.readouterr()
    assert run("all", *SMALL[:3], 100, *SMALL[3:], "--E_cstr") == 0
    assert "Resuming the search" in capsys.readouterr().out
    assert files() == [FINAL]
    model = load_model(FINAL)
    assert "alphas_E" not in without
    assert model["alphas_E"].shape == (30,)
    assert int(model["n_test"]) == 100
    assert float(model["e_err_mae"]) < 1.2 * float(without["e_err_mae"])
    assert run("show", FINAL) == 0
    assert "pointwise constraints" in capsys.readouterr().out


def test_show_of_a_molecule_and_its_model(capsys):
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    capsys.readouterr()
    run("show", f"{FOLDER}/model-train30-sym6-sig0010.npz")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    noise = float(load_model(f"{FOLDER}/model-train30-sym6-sig0010.npz")["label_noise"])
    for label, value in (
        ("Lattice", "n/a"),
        ("Units", "energy kcal/mol, force kcal/mol/Ang"),
        ("Symmetries", "6"),
        ("Length scale", "10"),
        ("Regularization", f"1e-10: label noise of about {noise:.2g} kcal/mol/Ang"),
        ("Type", "analytic (closed form)"),
        ("Energies", "global integration constant"),
        ("Tested on", "[pending]"),
    ):
        assert [line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{label}:")] == [value]
    assert "Expected errors, from the validation (MAE / RMSE)" in lines


@pytest.mark.parametrize("varying", [False, True])
def test_periodic_data_from_beginning_to_end(capsys, varying):
    lattice = np.array([[5.0, 3.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 9.0]])
    dataset = load_dataset("ethanol")
    rng = np.random.default_rng(0)
    R = dataset["R"][:300, :5] + rng.integers(-1, 2, (300, 5, 1)) * lattice[:, 0]
    if varying:
        lattice = lattice * rng.uniform(0.97, 1.03, (300, 1, 1))
    F = dataset["F"][:300, :5]
    save_dataset(
        "cell.npz", create_dataset("cell", "x", dataset["z"][:5], R, F, dataset["E"][:300], lattice, "Ang", "eV")
    )
    assert run("all", "cell.npz", 30, 40, 50, "-s", 10, 20, "--seed", 0) == 0
    out = capsys.readouterr().out
    assert "periodic boundary conditions are applied" in out
    (model_file,) = Path(".").glob("cell-x-train30-sym*.npz")
    model = load_model(model_file)
    assert model["image_rule"] == "minimum"
    assert model["lattice"].shape == ((30, 3, 3) if varying else (3, 3))
    run("show", model_file)
    out = capsys.readouterr().out
    assert "gamma = 53.1301" in out
    assert re.search(r"Image rule: +nearest image\n", out)
    run("show", "cell.npz")
    out = capsys.readouterr().out
    assert 'pbc="T T T"' in out
    if varying:
        assert re.search(r"Lattice: +300, one for each geometry\n +Lengths \[Ang\]: +a = 4\.\d+ to 5\.\d+, ", out)
    else:
        assert re.search(r"Lattice: +a +b +c\n +5 +3 +0\n +0 +4 +0\n +0 +0 +9\n", out)
        assert 'Lattice="5 0 0 3 4 0 0 0 9"' in out


def test_a_search_with_another_image_rule_is_refused(capsys):
    dataset = load_dataset("ethanol")
    arrays = [dataset[key][:200] for key in ("R", "F", "E")]
    save_dataset("cell.npz", create_dataset("cell", "x", dataset["z"], *arrays, np.eye(3) * 20))
    assert run("create", "cell.npz", 10, 10, "-s", 10, "--seed", 0, "--image_rule", "rounding") == 0
    assert run("create", "cell.npz", 10, 10, "-s", 10, "--seed", 0) == 1
    assert "--image_rule (rounding, not minimum)" in capsys.readouterr().err


def test_reset(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("reset") == 0
    assert "nothing to delete" in capsys.readouterr().out
    (tmp_path / "cache" / "fastgdml").mkdir(parents=True)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no answer
    assert run("reset") == 0
    assert (tmp_path / "cache" / "fastgdml").exists()
    assert run("reset", "-y") == 0
    assert not (tmp_path / "cache" / "fastgdml").exists()


# ---- wrong input: one clear message, exit status not 0, nothing written ------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["all", "nothing.npz", 10, 10], "no such dataset file"),
        (["all", "ethanol", 1990, 20], "only 10 of 2000 are free"),
        (["all", "ethanol", 3000, 20], "3000 points asked for"),
        (["all", "ethanol", 30, 40, "-v", "nothing.npz"], "no such dataset file"),
        (["all", "ethanol", 30, 40, "--perms_from", "nothing.npz"], "no such file"),
        (["train", "nowhere", "ethanol"], "no such task"),
        (["validate", "nowhere", "ethanol"], "no such model"),
        (["test", "nowhere.npz", "ethanol"], "no such model"),
        (["select", "nowhere"], "no such model"),
        (["show", "nothing.npz"], "no such dataset file"),
    ],
)
def test_wrong_input_is_one_message(capsys, args, message):
    assert run(*args) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert err.count("[FAIL]") == 1
    assert files() == []


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["all", "ethanol"],
        ["all", "ethanol", "0", "10"],
        ["all", "ethanol", "10", "x"],
        ["all", "ethanol", "10", "10", "-s", "abc"],
        ["all", "ethanol", "10", "10", "-s", "30:10:10"],
        ["all", "ethanol", "10", "10", "-s", "0"],
        ["all", "ethanol", "10", "10", "--gdml", "--perms_from", "x"],
        ["all", "ethanol", "10", "10", "--no_E", "--E_cstr"],
        ["all", "ethanol", "10", "10", "--seed", "-1"],
        ["all", "ethanol", "10", "10", "--lam", "-1"],
        ["all", "ethanol", "10", "10", "-m", "0"],
    ],
)
def test_wrong_usage_exits_with_2(capsys, args):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_broken_datasets_are_explained(capsys):
    dataset = load_dataset("ethanol")
    F = dataset["F"].copy()
    F[17, 3, 1] = np.nan
    save_npz("broken.npz", {"z": dataset["z"], "R": dataset["R"], "F": F, "E": dataset["E"]})
    assert run("all", "broken.npz", 30, 40) == 1
    assert re.search(r"broken\.npz: F has 1 values .*geometry 17, atom 3", capsys.readouterr().err)
    Path("truncated.npz").write_bytes(Path("broken.npz").read_bytes()[:5000])
    assert run("all", "truncated.npz", 30, 40) == 1
    assert "truncated.npz is no readable npz archive" in capsys.readouterr().err
    assert files() == ["broken.npz", "truncated.npz"]


def test_other_systems_and_datasets_are_refused(capsys):
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    model = f"{FOLDER}/model-train30-sym6-sig0010.npz"
    dataset = load_dataset("ethanol")
    shuffled = create_dataset("e", "x", dataset["z"][::-1], dataset["R"][:, ::-1], dataset["F"][:, ::-1], dataset["E"])
    save_dataset("shuffled.npz", shuffled)
    save_dataset("half.npz", create_dataset("e", "x", dataset["z"], dataset["R"][::2], dataset["F"][::2]))
    before = Path(model).read_bytes()
    for args, message in (
        (["test", model, "shuffled.npz"], "order differ"),
        (["validate", "-o", model, "half.npz"], "fingerprint"),
        (["train", "-o", FOLDER, "half.npz"], "another dataset"),
        (["test", model, "half.npz"], "the dataset has none"),
        (["all", "ethanol", 30, 40, "-t", "shuffled.npz"], "order differ"),
    ):
        capsys.readouterr()
        assert run(*args) == 1
        assert message in capsys.readouterr().err
    assert Path(model).read_bytes() == before


# ---- the program itself -----------------------------------------------------------------------------------------


def start(*args, **kwargs):
    # A shell without job control starts background jobs, and so perhaps these tests, with SIGINT ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from fastgdml.cli import main; sys.exit(main())"
    )
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], **kwargs)


def test_interrupt_keeps_finished_tasks_and_the_next_run_continues():
    args = ["all", "ethanol", 150, 200, 200, "--seed", 1, "-s", *range(6, 30, 2), "-p", 1]
    process = start(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = Path("sgdml_cv_ethanol-gfn2-xtb-train150-sym")
    deadline = time.monotonic() + 120
    while not list(folder.glob("model-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err
    finished = sorted(folder.glob("model-*.npz"))
    assert finished
    assert not list(folder.glob(".*"))
    for path in finished:
        load_model(path)
    again = start(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "Resuming the search" in out
    assert f"'{finished[0].name}' is there already" in out


def test_terminal_shows_progress_and_a_log_plain_lines():
    args = ["create", "ethanol", 400, 40, "-s", 10, "-o"]
    log = start(*args, stdout=subprocess.PIPE, text=True)
    out, _ = log.communicate(timeout=120)
    assert log.returncode == 0
    assert "\x1b" not in out
    assert "[DONE] Finding permutational symmetries" in out
    parent, child = pty.openpty()
    process = start(*args, stdout=child, stderr=child, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(parent)
    assert process.wait(timeout=120) == 0
    assert b"\x1b[" in shown
    assert b"%" in shown


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from fastgdml.cli.parser import build_parser; build_parser().format_help();"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'scipy', 'rich', 'psutil')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert re.match(r"fastgdml \d+\.\d+", out)
    for name in ("instruction set", "openmp", "blas", "threads"):
        assert f"{name}:" in out


def test_ranges():
    assert int_or_range("5") == [5]
    assert int_or_range("5:7") == [5, 6, 7]
    assert int_or_range("10:20:50") == [10, 30, 50]


def test_fingerprints_name_datasets(capsys):
    dataset = load_dataset("ethanol")
    save_dataset("eth.npz", dataset)
    fingerprint = load_npz("eth.npz")["md5"].item().decode()
    assert run("create", fingerprint, 30, 40, "-s", 10, "--seed", 0) == 0
    assert run("show", f"./{fingerprint}") == 0
    assert "Dataset properties" in capsys.readouterr().out


# ---- a search may only delete what is its own ------------------------------------------------------------------


def test_the_final_model_may_not_lie_in_the_search(capsys):
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    before = files()
    assert run("select", FOLDER, "--model_file", f"{FOLDER}/best.npz") == 1
    assert "would lie in the directory of the search" in capsys.readouterr().err
    assert run("all", *SMALL, "--task_dir", FOLDER, "--model_file", f"{FOLDER}/best") == 1
    assert run("select", f"{FOLDER}/model-train30-sym6-sig0010.npz") == 1
    assert "is one model" in capsys.readouterr().err
    os.chdir(FOLDER)
    assert run("select", ".") == 1
    os.chdir("..")
    assert files() == before


def test_models_of_other_names_survive_a_search():
    run("create", *SMALL)
    run("train", FOLDER, "ethanol")
    other = Path(FOLDER, "my-best.npz")
    other.write_bytes(Path(FOLDER, "model-train30-sym6-sig0010.npz").read_bytes())
    assert run("create", *SMALL, "-o") == 0
    assert other.exists()


def test_lazy_with_nothing_left_is_one_message(capsys):
    run("create", *SMALL)
    for path in Path(FOLDER).glob("task-*.npz"):
        save_npz(path, {**load_task(path), "tried_training": True})
    assert run("all", *SMALL, "--lazy") == 1
    assert "no trained models" in capsys.readouterr().err


def test_a_model_without_test_points_is_still_delivered(capsys):
    dataset = load_dataset("ethanol")
    small = create_dataset("e", "x", dataset["z"], dataset["R"][:40], dataset["F"][:40], dataset["E"][:40])
    save_dataset("small.npz", small)
    assert run("all", "small.npz", 20, 20, "-s", 10, "--gdml") == 0
    captured = capsys.readouterr()
    assert "All 40 points" in captured.err
    assert "This is your model file" in captured.out


def test_a_test_dataset_without_energies_is_found_out_first(capsys):
    dataset = load_dataset("ethanol")
    save_dataset("noE.npz", create_dataset("e", "x", dataset["z"], dataset["R"], dataset["F"]))
    assert run("all", *SMALL, "-t", "noE.npz") == 1
    assert "test dataset has no energies" in capsys.readouterr().err
    assert files() == ["noE.npz"]


@pytest.mark.parametrize(("name", "status", "said"), [("ethanol", 0, "Atoms"), ("nothing.npz", 1, "nothing.npz")])
def test_the_package_runs_as_a_program(name, status, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastgdml", "show", name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert said in done.stdout + done.stderr
