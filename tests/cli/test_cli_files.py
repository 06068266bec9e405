"""Files that real hands give to the command line: other kinds, units, fingerprints, damaged and missing ones."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastgdml.cli import main
from fastgdml.dataset import create_dataset, load_dataset, save_dataset
from fastgdml.exchange import export_sgdml
from fastgdml.flat import export_flat
from fastgdml.model import load_model, save_model
from fastgdml.npz import MODEL, SGDML_MODEL, kind_of, load_npz, save_npz
from fastgdml.task import save_task

SMALL = [20, 20, 20, "-s", 20, "--seed", 1]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return main([str(a) for a in args])


@pytest.fixture
def refused(capsys):
    """Run a command that must fail with one line that matches, and leave all files as they are."""

    def check(message, *args):
        before = contents()
        capsys.readouterr()
        assert run(*args) == 1
        captured = capsys.readouterr()
        assert re.search(message, captured.err), captured.err
        assert captured.err.count("[FAIL]") == 1
        assert "Traceback" not in captured.out + captured.err
        assert "should not happen" not in captured.err
        assert "Solving" not in captured.out
        assert contents() == before

    return check


def contents():
    return {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()}


def arrays(dataset, part=slice(0, 100)):
    return {"z": dataset["z"]} | {key: dataset[key][part] for key in ("R", "F", "E")}


@pytest.fixture
def data(ethanol):
    np.savez("data.npz", **arrays(ethanol), e_unit="kcal/mol", r_unit="Ang")
    return arrays(ethanol)


# ---- files of another kind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [(), ("-o",)])
def test_no_command_replaces_a_file_of_another_kind(data, refused, ethanol_task, ethanol_model, option):
    save_task("task.npz", ethanol_task)
    save_model("model.npz", ethanol_model)
    export_sgdml("sgdml.npz", ethanol_model)
    export_flat("flat.npz", ethanol_model)
    Path("notes.npz").write_text("mine")
    for name, kind in {"data": "dataset", "task": "task", "sgdml": "model in the format", "flat": "flat model"}.items():
        refused(f"'{name}.npz' is a {kind}.* never replaced", "all", "data.npz", *SMALL, "--model_file", name, *option)
    for name in ("data", "task", "model", "sgdml", "notes"):
        refused("never replaced by a flat", "export", "model.npz", f"{name}.npz", "--format", "flat", *option)
    for name in ("data", "task", "model", "flat", "notes"):
        refused("never replaced by a model in the", "export", "model.npz", f"{name}.npz", "--format", "sgdml", *option)
    os.mkdir("search")
    save_model("search/model-train30-sym6-sig0020.npz", ethanol_model)
    refused("is a dataset", "select", "search", "--model_file", "data", *option)
    # a task file has the name of one, but is something else
    assert run("create", "data.npz", *SMALL[:2], *SMALL[3:], "--task_dir", "tasks") == 0
    (task,) = Path("tasks").iterdir()
    task.write_bytes(Path("data.npz").read_bytes())
    refused("is a dataset", "create", "data.npz", *SMALL[:2], *SMALL[3:], "--task_dir", "tasks", *option)


def test_a_model_of_sgdml_stays_one(data, ethanol_model, capsys):
    task_points = {"idxs_train": np.arange(30), "idxs_valid": np.arange(30, 70)}
    export_sgdml("m.npz", {**ethanol_model, **task_points})
    assert run("test", "m.npz", "ethanol", 50) == 0
    assert kind_of("m.npz") == SGDML_MODEL
    model = load_model("m.npz")
    assert int(model["n_test"]) == 50
    assert float(model["f_err_mae"]) > 0
    save_model("n.npz", ethanol_model)
    assert run("test", "n.npz", "ethanol", 50) == 0
    assert kind_of("n.npz") == MODEL


# ---- what can be found before the work ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_file", "results/m.npz"], "no folder 'results'"),
        (["--model_file", "data.npz/m"], r"no folder 'data\.npz'"),
        (["--model_file", "x" * 300], "File name too long"),
        (["--model_file", ""], "names? .*(empty|none)|must name a file"),
        (["--model_file", "."], "must name a file"),
        (["--model_file", ".."], "must name a file"),
        (["--model_file", "a/"], "no folder|must name"),
        (["--task_dir", "x" * 300], "File name too long"),
        (["--task_dir", "data.npz"], "is no directory"),
        (["--task_dir", "data.npz/x"], "is no directory"),
        (["--task_dir", ""], "empty"),
        (["--perms_from", "data.npz/x"], "no such file"),
        (["--perms_from", "."], "is a directory"),
        (["--perms_from", ""], "empty"),
        (["-v", "x" * 300], "File name too long"),
        (["-t", "."], "is a directory"),
        (["-t", ""], "empty"),
    ],
)
def test_targets_that_cannot_be_written(data, refused, options, message):
    refused(message, "all", "data.npz", *SMALL, *options)
    assert sorted(contents()) == [Path("data.npz")]


@pytest.mark.parametrize("name", ["", ".", "..", "nothing", "nothing/else", "x" * 300, "a\0b", "/dev/null", "notes/x"])
@pytest.mark.parametrize(
    "command",
    [
        ["show", "{}"],
        ["create", "{}", "10", "10"],
        ["all", "{}", "10", "10"],
        ["train", "{}", "ethanol"],
        ["train", "files/task.npz", "{}"],
        ["validate", "{}", "ethanol"],
        ["test", "{}", "ethanol"],
        ["test", "files/model.npz", "{}"],
        ["select", "{}"],
        ["resume", "{}", "ethanol", "ethanol"],
        ["export", "{}", "new.fgdml"],
        ["export", "files/model.npz", "{}", "--format", "flat"],
    ],
)
def test_names_of_no_file(refused, ethanol_task, ethanol_model, command, name):
    os.mkdir("files")
    save_task("files/task.npz", ethanol_task)
    save_model("files/model.npz", ethanol_model)
    Path("notes").write_text("mine")
    if name == "nothing" and command[1] == "files/model.npz" and command[0] == "export":
        return  # a good name for a new file
    refused(".", *[part.format(name) for part in command])


def test_a_folder_that_cannot_be_written_to(data, refused, ethanol_model, monkeypatch):
    # as a read-only file system: also for the superuser
    real, real_descriptor = open, os.open

    def read_only(path, mode="r", *args, **kwargs):
        if "x" in mode:
            raise OSError(30, "Read-only file system", str(path))
        return real(path, mode, *args, **kwargs)

    def read_only_descriptor(path, flags, *args, **kwargs):
        without_name = getattr(os, "O_TMPFILE", 0)
        if without_name and flags & without_name == without_name:
            raise OSError(30, "Read-only file system", str(path))
        return real_descriptor(path, flags, *args, **kwargs)

    save_model("model.npz", ethanol_model)
    monkeypatch.setattr("fastgdml.files.open", read_only, raising=False)
    monkeypatch.setattr(os, "open", read_only_descriptor)
    for args in (
        ["all", "data.npz", *SMALL],
        ["create", "data.npz", 20, 20],
        ["export", "model.npz", "model.fgdml"],
        ["validate", "-o", "model.npz", "ethanol"],
    ):
        refused("Read-only file system", *args)
    before = contents()
    assert run("test", "model.npz", "ethanol", 20) == 0  # it prints what it cannot record
    assert contents() == before


# ---- fingerprints and units --------------------------------------------------------------------------------------


def test_a_recorded_fingerprint(data, capsys):
    own = np.array(b"0123456789abcdef0123456789abcdef")
    np.savez("own.npz", type="d", name="own", theory="x", md5=own, **data)
    assert run("all", "own.npz", *SMALL, "--model_file", "m") == 0
    save_npz("m.npz", {**load_npz("m.npz"), "md5_train": own, "md5_valid": own, "n_test": 0})
    capsys.readouterr()
    assert run("test", "m.npz", "own.npz") == 0
    assert "Testing on 60 points" in capsys.readouterr().out
    assert run("validate", "-o", "m.npz", "own.npz") == 0
    assert run("show", "own.npz") == 0
    assert own.item().decode() in capsys.readouterr().out
    assert load_dataset(own.item().decode())["name"] == "own"


def test_a_longer_file_of_the_same_run(ethanol, data, capsys):
    assert run("all", "data.npz", *SMALL, "--model_file", "m") == 0
    np.savez("longer.npz", **arrays(ethanol, slice(0, 200)))
    capsys.readouterr()
    assert run("test", "m.npz", "longer.npz", "-o") == 0
    captured = capsys.readouterr()
    assert "Testing on 160 points" in captured.out
    assert "20 geometries of this dataset are training points of the model" in captured.err


HARTREE, BOHR, KCAL = 27.211386245988, 0.529177210903, 4184 / 6.02214076e23 / 1.602176634e-19


def test_datasets_in_other_units(ethanol, data, capsys):
    other = arrays(ethanol, slice(100, 200))
    save_npz("same.npz", {**other, "e_unit": "kcal/mol", "r_unit": "Ang"})
    scaled = {
        "z": other["z"],
        "R": other["R"] / BOHR,
        "F": other["F"] * KCAL / HARTREE * BOHR,
        "E": other["E"] * KCAL / HARTREE,
    }
    save_npz("atomic.npz", {**scaled, "e_unit": "au", "r_unit": "au"})
    results = {}
    for name in ("same", "atomic"):
        args = ["all", "data.npz", *SMALL[:3], "-s", 10, 20, 40, "--seed", 1, "-p", 1, "--model_file", name[0]]
        assert run(*args, "-v", f"{name}.npz", "-t", f"{name}.npz") == 0
        captured = capsys.readouterr()
        assert ("The dataset is in au and au, the model in kcal/mol and Ang" in captured.out) == (name == "atomic")
        lines = captured.out.splitlines()
        start = next(i for i, line in enumerate(lines) if "Test errors" in line)
        results[name] = [line.split("(")[0] for line in lines[start : start + 5]]
        assert "kcal/mol/Ang" in "".join(results[name])
    assert results["same"] == results["atomic"]
    one, other = load_model("s.npz"), load_model("a.npz")
    assert one["sig"] == other["sig"]
    np.testing.assert_array_equal(one["R_desc"], other["R_desc"])


def test_units_that_are_unknown(ethanol, data, refused):
    np.savez("furlong.npz", **arrays(ethanol, slice(100, 200)), e_unit="kcal/mol", r_unit="furlong")
    refused("'furlong'.*r_unit", "all", "data.npz", *SMALL, "-v", "furlong.npz")
    refused("'furlong'.*r_unit", "all", "data.npz", *SMALL, "-t", "furlong.npz")
    assert run("all", "data.npz", *SMALL, "--model_file", "m") == 0
    refused("'furlong'.*r_unit", "test", "m.npz", "furlong.npz")


def test_models_in_different_units_are_not_compared(ethanol_model, refused):
    os.mkdir("search")
    for i, unit in enumerate(("kcal/mol", "eV")):
        errors = {"f_err_mae": 1.0, "f_err_rmse": 1.0}
        save_model(f"search/model-train30-sym6-sig{i}.npz", {**ethanol_model, "e_unit": unit, **errors})
    refused("record different units", "select", "search")


# ---- contents ----------------------------------------------------------------------------------------------------


def test_numbers_of_other_types(ethanol, data, capsys):
    expected = load_dataset("data.npz")
    M = len(data["R"])
    for change in (
        {"z": data["z"].astype(float)},
        {"z": data["z"].astype(">i4")},
        {"z": np.tile(data["z"], (M, 1))},
        {"E": data["E"][:, None, None]},
        {"E": data["E"].astype(object)},
        {"R": data["R"].astype(object)},
        {"R": np.asfortranarray(data["R"]).astype(object)},
        {"R": data["R"].astype(">f8")},
        {"lattice": None, "perms": None, "r_unit": None},
        {"lattice": "None"},
        {"name": ["data"] * M, "r_unit": ["Ang"] * M},
    ):
        np.savez("other.npz", **{"e_unit": "kcal/mol", "r_unit": "Ang", **data, **change})
        found = load_dataset("other.npz")
        for key in ("z", "R", "F", "E"):
            np.testing.assert_array_equal(found[key], expected[key])
        assert found["R"].dtype.kind == "f"
        assert found["z"].dtype.kind == "i"
        assert run("show", "other.npz") == 0
    np.savez("other.npz", **{**data, "E": np.round(data["E"]).astype(int)})
    np.testing.assert_array_equal(load_dataset("other.npz")["E"], np.round(data["E"]))
    for changed in ("z", "E"):  # known by the fingerprint of what is stored, as sgdml computes it
        stored = {**data, changed: data[changed].astype(np.float32)}
        np.savez("other.npz", **stored)
        assert run("all", "other.npz", *SMALL, "-o", "--model_file", "m") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"E": "abc"}, "E must hold floating-point"),
        ({"E": np.array([{}] * 100)}, "E must hold floating-point"),
        ({"F": None}, "F missing"),
        ({"z": np.array(["C"] * 9)}, "z must hold atomic numbers"),
        ({"z": np.full(9, np.nan)}, "z must hold atomic numbers"),
        ({"z": np.array([None] * 9)}, "z must hold atomic numbers"),
        ({"R": np.zeros((100, 9, 3), dtype=complex)}, "R must hold floating-point"),
        ({"lattice": "abc"}, "lattice must hold floating-point"),
        ({"lattice": np.zeros(7)}, "3 x 3"),
        ({"perms": "abc"}, "perms"),
        ({"perms": np.zeros((0, 9))}, "perms"),
        ({"perms": np.zeros((2, 3, 9))}, "perms"),
        ({"r_unit": ["Ang", "Bohr"] * 50}, "r_unit must be one text; found 2"),
        ({"scale": 1e-10}, "in metres"),
    ],
)
def test_entries_of_unexpected_kinds(data, refused, change, message):
    if "scale" in change:
        change = {"R": data["R"] * 1e-10, "F": data["F"] * 1e10}
    np.savez("bad.npz", **{**data, **change})
    refused(message, "show", "bad.npz")
    refused(message, "all", "bad.npz", *SMALL)
    refused(message, "all", "data.npz", *SMALL, "-v", "bad.npz")


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        (
            {"z": "nuclear_charges", "R": "coords", "F": "forces", "E": "energies"},
            ["z=d['nuclear_charges'], R=d['coords'], F=d['forces'], E=d['energies']"],
        ),
        (
            {"z": "atomic_numbers", "R": "geometry", "F": "gradients", "E": "energy"},
            ["z=d['atomic_numbers'], R=d['geometry'], F=-d['gradients'], E=d['energy']"],
        ),
        ({"z": "species", "R": "positions"}, ["z=d['species'], R=d['positions']", "looks like F"]),
        ({"R": "foo"}, ["It has the keys foo", "Needed are z"]),
    ],
)
def test_keys_of_other_projects(data, refused, keys, messages):
    np.savez("foreign.npz", **{name: data[key] for key, name in keys.items()})
    for message in [*messages, ", ".join(sorted(keys.values())), "missing"]:
        refused(re.escape(message), "show", "foreign.npz")
    if "E" in keys:
        refused("fastgdml dataset convert foreign.npz -o NEW.npz", "all", "foreign.npz", *SMALL)
        # what the message advises works
        advice = messages[0]
        d = np.load("foreign.npz")
        eval(f"numpy.savez('NEW.npz', {advice})", {"numpy": np, "d": d})
        assert run("show", "NEW.npz") == 0


@pytest.mark.parametrize(
    ("entries", "warns"),
    [
        ({"cell": np.eye(3) * 5}, True),
        ({"Lattice": np.eye(3) * 5, "pbc": np.array([True, True, False])}, True),
        ({"cell": np.eye(3) * 5, "pbc": np.zeros(3, dtype=bool)}, False),
        ({"cell": np.zeros((3, 3))}, False),
        ({"pbc": True}, True),
        ({"cell": np.eye(3) * 50, "lattice": np.eye(3) * 50}, False),
    ],
)
def test_a_cell_under_another_key(data, capsys, entries, warns):
    np.savez("cell.npz", **data, **entries)
    assert run("show", "cell.npz") == 0
    assert ("not read, and there is no 'lattice'" in capsys.readouterr().err) == warns


def test_a_users_file_comes_before_an_example(data, capsys):
    Path("data.npz").rename("ethanol.npz")
    assert len(load_dataset("ethanol")["R"]) == 100
    assert run("show", "ethanol") == 0
    assert "not the shipped example" in capsys.readouterr().out


def test_test_sets_without_forces(ethanol, data, capsys):
    assert run("all", "data.npz", *SMALL, "--model_file", "m") == 0
    before = Path("m.npz").read_bytes()
    zero = arrays(ethanol, slice(100, 200))
    np.savez("zero.npz", **{**zero, "F": np.zeros_like(zero["F"])})
    capsys.readouterr()
    assert run("test", "m.npz", "zero.npz", "-o") == 0
    assert "All forces of the test points are zero" in capsys.readouterr().err
    assert Path("m.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("model", {"sig": np.ones(2)}),
        ("model", {"std": np.array("abc")}),
        ("model", {"c": np.array(None)}),
        ("model", {"perms": np.float64(1)}),
        ("model", {"tril_perms_lin": np.zeros((36, 2))}),
        ("model", {"n_test": np.float64("inf")}),
        ("model", {"idxs_train": np.float64(1)}),
        ("model", {"use_E": np.ones(2)}),
        ("model", {"R_desc": np.zeros((36, 0)), "R_d_desc_alpha": np.zeros((0, 36))}),
        ("task", {"sig": np.array(None)}),
        ("task", {"sig": 1e308}),
        ("task", {"lam": 1e300}),
        ("task", {"z": np.float64(1)}),
        ("task", {"perms": np.zeros((0, 9), dtype=int)}),
        ("task", {"lattice": np.array("abc")}),
        ("task", {"R_train": np.full((30, 9, 3), "a")}),
        ("task", {"idxs_train": np.arange(3)}),
    ],
)
def test_damaged_tasks_and_models(refused, ethanol_task, ethanol_model, kind, change):
    key = next(iter(change))
    np.savez("bad.npz", **{**{"task": ethanol_task, "model": ethanol_model}[kind], **change})
    expected = "training points" if key == "R_desc" else key
    refused(expected, "show", "bad.npz")
    refused(expected, *(["train", "bad.npz", "ethanol"] if kind == "task" else ["test", "bad.npz", "ethanol"]))


# ---- output ------------------------------------------------------------------------------------------------------


START = [sys.executable, "-c", "import sys; from fastgdml.cli import main; sys.exit(main())"]


def fastgdml(*args, **options):
    command = [*START, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, **options)


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="file names of this locale have no such letters")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:strict"])
def test_what_the_terminal_cannot_show_is_escaped(data, ethanol, encoding):
    path = os.fsdecode("Å長\udcff.npz".encode("utf-8", "surrogateescape"))
    np.savez("plain.npz", name="Å長", theory="λ", e_unit="kcal/mol", r_unit="Å", **data)
    os.rename("plain.npz", path)
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    for args in (["show", path], ["all", path, *SMALL, "-s", 10, 20, "--model_file", "長"], ["show", path + "x"]):
        done = fastgdml(*args, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        assert "should not happen" not in done.stderr
        assert done.returncode == (1 if args[-1].endswith("x") else 0), done.stderr
    assert Path("長.npz").is_file()


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["all", "--help"], ["show", "ethanol"]])
def test_a_reader_that_stops_reading(args):
    command = shlex.join([*START, *args])
    # the reader is gone before the first line
    done = subprocess.run(f"( sleep 1; {command} ) | true", shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full on this system")
def test_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        command = [*START, "show", "ethanol"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_faults_of_the_program_are_one_line(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("who knows")

    monkeypatch.setattr("fastgdml.cli.show.resolve_dataset", fail)
    assert run("show", "ethanol") == 1
    err = capsys.readouterr().err
    assert "This should not happen: RuntimeError: who knows (test_cli_files.py, line" in err
    assert "Traceback" not in err
    monkeypatch.setenv("FASTGDML_TRACEBACK", "1")
    assert run("show", "ethanol") == 1
    assert "Traceback" in capsys.readouterr().err


# ---- Python -------------------------------------------------------------------------------------------------------


def test_tasks_from_files_and_bare_arrays(ethanol, data):
    from fastgdml.errors import UsageError
    from fastgdml.train import GDMLTrain

    train = GDMLTrain()
    named = create_dataset("data", "unknown", **data)
    save_dataset("named.npz", named)
    expected = train.create_task(named, 20, named, 20, sig=20, seed=1)
    bare = {**data, "z": data["z"].astype(float), "lattice": None}
    for dataset in ("named.npz", Path("named.npz"), bare, np.load("data.npz")):
        task = train.create_task(dataset, 20, dataset, 20, sig=20, seed=1)
        for key in ("z", "idxs_train", "idxs_valid", "R_train", "perms", "md5_train"):
            np.testing.assert_array_equal(task[key], expected[key])
    for change, message in (
        ({"n_train": -5}, "n_train must be at least 1; got -5"),
        ({"n_train": 0}, "n_train must be at least 1"),
        ({"n_train": 2.5}, "n_train must be an integer; got 2.5"),
        ({"n_train": "20"}, "n_train must be an integer"),
        ({"n_valid": -1}, "n_valid must be at least 0"),
        ({"sig": "20"}, "sigma must be a positive number"),
        ({"sig": None}, "sigma must be a positive number"),
        ({"sig": [10, 20]}, "sigma must be a positive number"),
        ({"sig": float("nan")}, "sigma must be a positive number"),
        ({"lam": float("inf")}, "lambda"),
        ({"train_dataset": None}, "must be a mapping"),
        ({"train_dataset": [1, 2]}, "must be a mapping"),
    ):
        arguments = {"train_dataset": bare, "n_train": 20, "valid_dataset": bare, "n_valid": 20, "sig": 20} | change
        with pytest.raises(UsageError, match=message):
            train.create_task(**arguments)
