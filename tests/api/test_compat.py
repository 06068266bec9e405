"""Scripts written for sgdml, run on fastgdml."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.paths import ROOT

from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict

XYZ = """3
water
O 0.0 0.0 0.117
H 0.0 0.757 -0.47
H 0.0 -0.757 -0.47
3

O 0.0 0.0 0.2
H 0.0 0.757 -0.5
H 0.0 -0.757 -0.5
"""

# The example of sgdml's README, word for word but for the file names.
README = """
import numpy as np
from sgdml.predict import GDMLPredict
from sgdml.utils import io

r,_ = io.read_xyz('geometries/ethanol.xyz') # 9 atoms
print(r.shape) # (1,27)

model = np.load('models/ethanol.npz')
gdml = GDMLPredict(model)
e,f = gdml.predict(r)
print(e.shape) # (1,)
print(f.shape) # (1,27)
"""

# The example of sgdml's documentation.
TRAINING = """
import sys
import numpy as np
from sgdml.train import GDMLTrain

dataset = np.load('d_ethanol.npz')
n_train = 20

gdml_train = GDMLTrain()
task = gdml_train.create_task(dataset, n_train,
        valid_dataset=dataset, n_valid=30,
        sig=10, lam=1e-15)

try:
        model = gdml_train.train(task)
except Exception as err:
        sys.exit(err)
else:
        np.savez_compressed('m_ethanol.npz', **model)
print(model['f_err'], model['e_err'], sorted(model))
"""


def run(*arguments, cwd, status=0):
    """Run `python -m fastgdml.compat`; returns (standard output, standard error)."""
    command = [sys.executable, "-W", "error", "-m", "fastgdml.compat", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


# ---- running scripts --------------------------------------------------------------------------------------------


def test_the_example_of_the_readme(tmp_path, ethanol, ethanol_model):
    (tmp_path / "geometries").mkdir()
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models/ethanol.npz", ethanol_model)
    rows = [" ".join(["X", *(repr(float(x)) for x in atom)]) for atom in ethanol["R"][3]]
    symbols = iter("CCOHHHHHH")
    text = "\n".join(["9", "", *(row.replace("X", next(symbols)) for row in rows)])
    (tmp_path / "geometries/ethanol.xyz").write_text(text + "\n")
    (tmp_path / "query.py").write_text(README + "np.savez('out.npz', e=e, f=f)\n")
    assert run("query.py", cwd=tmp_path)[0].split("\n") == ["(1, 27)", "(1,)", "(1, 27)", ""]
    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][3])
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["e"], E)
        np.testing.assert_array_equal(out["f"], F)


def test_the_training_example_gives_a_model_with_the_keys_of_sgdml(tmp_path, ethanol):
    np.savez(tmp_path / "d_ethanol.npz", **ethanol)
    (tmp_path / "train.py").write_text(TRAINING)
    printed, _ = run("train.py", cwd=tmp_path)
    assert printed.startswith("{'mae': nan, 'rmse': nan} {'mae': nan, 'rmse': nan}")
    with np.load(tmp_path / "m_ethanol.npz", allow_pickle=True) as model:
        assert model["f_err"].item().keys() == {"mae", "rmse"}
        predictor = GDMLPredict(model)
    F = predictor.predict(ethanol["R"][:20].reshape(20, -1))[1]
    assert np.abs(F - ethanol["F"][:20].reshape(20, -1)).mean() < 0.3 * np.abs(ethanol["F"][:20]).mean()


PERIODIC = """
import sys
import numpy as np
from sgdml.predict import GDMLPredict
from sgdml.train import GDMLTrain

arrays = np.load(sys.argv[1])
common = {'type': 'd', 'name': np.array('slab'), 'theory': np.array('emt')}
common |= {'z': arrays['z'], 'lattice': arrays['lattice']}
dataset = {**common, **{key: arrays[key + '_train'] for key in 'REF'}}
valid = {**common, **{key: arrays[key + '_test'] for key in 'REF'}}
task = GDMLTrain().create_task(dataset, 10, valid, 20, sig=int(arrays['sig']), perms=arrays['perms'])
model = GDMLTrain().train(task)
E, F = GDMLPredict(model).predict(arrays['R_test'].reshape(20, -1))
np.savez('out.npz', E=E, F=F)
"""


def test_periodic_systems_are_those_of_sgdml(tmp_path, shared):
    """The cell is skewed: another rule for the images of atoms would give other forces."""
    path = shared("reference/cu111_periodic.npz").resolve()
    (tmp_path / "slab.py").write_text(PERIODIC)
    run("slab.py", path, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as out, np.load(path) as reference:
        scale = np.abs(reference["F_pred"]).max()
        np.testing.assert_allclose(out["F"], reference["F_pred"], rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(out["E"], reference["E_pred"], rtol=0, atol=1e-5 * scale)


def test_arguments_folder_and_name_are_those_of_a_script(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "helper.py").write_text("value = 42\n")
    (folder / "script.py").write_text(
        "import json, sys, helper\nprint(json.dumps([__name__, __file__, sys.argv, sys.path[0], helper.value]))\n"
    )
    found = json.loads(run("folder/script.py", "a", "--b", "-m", cwd=tmp_path)[0])
    assert found == ["__main__", "folder/script.py", ["folder/script.py", "a", "--b", "-m"], str(folder), 42]


def test_modules_run_too(tmp_path):
    (tmp_path / "tool.py").write_text("import sys, sgdml\nprint(__name__, sys.argv[1:], sgdml.__version__)\n")
    assert run("-m", "tool", "x", cwd=tmp_path)[0] == "__main__ ['x'] 1.0.3\n"


@pytest.mark.parametrize("name", [("sgdml",), ("-m", "sgdml.cli")])
def test_the_command_line_of_sgdml(tmp_path, name):
    assert "Dataset properties" in run(*name, "show", "ethanol", cwd=tmp_path)[0]
    assert "invalid choice" in run(*name, "no_such_command", cwd=tmp_path, status=2)[1]


def test_exit_status(tmp_path):
    (tmp_path / "leave.py").write_text("import sys\nsys.exit(7)\n")
    run("leave.py", cwd=tmp_path, status=7)


def test_tracebacks_begin_in_the_script(tmp_path):
    (tmp_path / "broken.py").write_text("def f():\n    raise ValueError('boom')\n\n\nf()\n")
    _, error = run("broken.py", cwd=tmp_path, status=1)
    frames = [line.split(", in")[0] for line in error.split("\n") if line.startswith("  File")]
    assert frames == ['  File "broken.py", line 5', '  File "broken.py", line 2']
    assert error.endswith("ValueError: boom\n")


def test_syntax_errors_show_the_line_only(tmp_path):
    (tmp_path / "wrong.py").write_text("def f(:\n")
    _, error = run("wrong.py", cwd=tmp_path, status=1)
    assert error.count("File ") == 1
    assert 'File "wrong.py", line 1' in error


def test_usage(tmp_path):
    assert "usage: python -m fastgdml.compat" in run("--help", cwd=tmp_path)[0]
    assert "usage: python -m fastgdml.compat" in run(cwd=tmp_path, status=2)[1]
    assert "there is no script 'missing.py'" in run("missing.py", cwd=tmp_path, status=2)[1]


# ---- names ------------------------------------------------------------------------------------------------------


def python(code, cwd):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_makes_sgdml_available(tmp_path):
    code = """
import fastgdml.compat.sgdml
import sgdml, sgdml.utils.io, sgdml.predict
from sgdml.train import GDMLTrain, _share_array, _assemble_kernel_mat_wkr
from sgdml.utils.desc import Desc
from sgdml.utils.perm import find_perms
from sgdml.utils import ui
import fastgdml.predict, fastgdml.train, pickle, importlib.util
assert sgdml is fastgdml.compat.sgdml and sgdml.utils.io is fastgdml.compat.sgdml.utils.io
assert sgdml.predict.GDMLPredict is fastgdml.predict.GDMLPredict
assert issubclass(GDMLTrain, fastgdml.train.GDMLTrain)
assert sgdml.utils.io.__spec__.name == sgdml.utils.io.__name__ == 'fastgdml.compat.sgdml.utils.io'
assert pickle.loads(pickle.dumps(GDMLTrain)) is GDMLTrain
assert importlib.util.find_spec('sgdml.predict') is not None
assert (sgdml.__version__, sgdml.DONE, sgdml.NOT_DONE) == ('1.0.3', 1, 0)
try:
    import sgdml.torchtools
except ModuleNotFoundError as error:
    assert error.name == 'sgdml.torchtools' and 'fastgdml.compat' in str(error)
else:
    raise AssertionError
"""
    python(code, tmp_path)


def test_the_real_sgdml_is_not_mixed_with_the_stand_in(tmp_path):
    (tmp_path / "sgdml").mkdir()
    (tmp_path / "sgdml/__init__.py").write_text("__version__ = 'real'\n")
    code = """
import sgdml
assert sgdml.__version__ == 'real'
try:
    import fastgdml.compat.sgdml
except ImportError as error:
    assert 'sgdml itself is imported already' in str(error), error
else:
    raise AssertionError
assert sgdml.__version__ == 'real'
"""
    python(code, tmp_path)
    # an installed sgdml that is not imported yet gives way
    python("import fastgdml.compat.sgdml, sgdml; assert sgdml.__version__ == '1.0.3'", tmp_path)


# ---- helpers ----------------------------------------------------------------------------------------------------

# Runs on the real package and on the stand-in; everything that it collects must be equal.
HELPERS = ROOT / "tests/support/sgdml_script.py"


@pytest.fixture
def helper_folder(tmp_path, ethanol):
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "water.xyz").write_text(XYZ)
        (folder / "helpers.py").write_text(HELPERS.read_text())
        np.savez(folder / "ethanol.npz", **ethanol)
        return folder

    return make


def collected(printed):
    return json.loads(next(line for line in printed.split("\n") if line.startswith("OUT"))[3:])


def test_helpers_equal_those_of_sgdml(helper_folder, peer):
    ours, theirs = helper_folder("ours"), helper_folder("theirs")
    out = collected(run("helpers.py", "arrays.npz", cwd=ours)[0])
    reference = collected(peer("exec(open('helpers.py').read())", "arrays.npz", cwd=theirs))
    assert out.keys() == reference.keys()
    for key in reference.keys() - {"lattice"}:
        assert out[key] == reference[key], key
    np.testing.assert_allclose(out["lattice"], reference["lattice"], rtol=1e-12)
    with np.load(ours / "arrays.npz") as arrays, np.load(theirs / "arrays.npz") as wanted:
        assert arrays.files == wanted.files
        for key in wanted.files:
            assert arrays[key].shape == wanted[key].shape, key
            np.testing.assert_allclose(arrays[key], wanted[key], rtol=1e-12, atol=1e-12, err_msg=key)


def test_helpers(helper_folder):
    """The same, against what sgdml 1.0.3 gave when the test was written."""
    folder = helper_folder("here")
    out = collected(run("helpers.py", "arrays.npz", cwd=folder)[0])
    assert out["z"] == [8, 1, 1]
    assert np.array(out["R"]).shape == (2, 9)
    assert out["symbols"] == ["H", "O", "Cu", "U"]
    assert out["numbers"] == [6, 17, 116]
    assert out["written"].split("\n")[:3] == ["5", "a comment", "H\t0.0\t0.0\t0.0"]
    assert not out["written"].endswith("\n")
    assert out["xyz"][0].split("\n")[:2] == ["5", "Properties=species:S:1:pos:R:3"]
    assert " Energy=-97208.4123457 Properties=species:S:1:pos:R:3:forces:R:3\n" in out["xyz"][1]
    assert out["dirs"][-1] == "sgdml_cv_my mol-PBE.TS.x.y-train30-sym-Ecstr"
    assert out["dirs"][0] == "sgdml_cv_my mol-PBE.TS.x.y-train30-noE"
    assert out["files"] == [
        "task-train7-sym3-sig0020.npz",
        "model-train7-sym3-sig0020.npz",
        "mol-PBE.TS-train7-sym3.npz",
    ]
    assert out["resumeable"] == [True, False, False, False, False]
    assert out["parsed"] == [3, 7, [1, 2, 3, 4], [10, 20, 30, 40]]
    assert out["cycles"] == [[1, 2, 0], [4, 3], [5]]
    assert out["no group"]
    with np.load(folder / "arrays.npz") as arrays:
        g, full = arrays["g"], arrays["full"].reshape(4, 10, 5, 3)
        a, b = np.tril_indices(5, -1)
        np.testing.assert_array_equal(full[:, np.arange(10), b], g)
        np.testing.assert_array_equal(full[:, np.arange(10), a], -g)
        np.testing.assert_array_equal(arrays["comp"], g)
        assert arrays["group"].shape == (6, 6)
        assert arrays["x1"].shape == (10,)
        assert arrays["perms"].shape == (2, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("O 0 0 0\n", "line 1 must give the number of atoms"),
        ("2\n\nO 0 0 0\n", "3 lines are no whole number of blocks of 2 atoms"),
        ("1\n\nO 0 0\n", "line 3 must hold a chemical symbol and three coordinates; found 'O 0 0'"),
        ("1\n\nQq 0 0 0\n", "line 3 must hold"),
        ("1\n\nO 0 zero 0\n", "line 3 must hold"),
    ],
)
def test_broken_xyz_files_are_explained(tmp_path, text, message):
    (tmp_path / "broken.xyz").write_text(text)
    (tmp_path / "read.py").write_text("from sgdml.utils import io\nio.read_xyz('broken.xyz')\n")
    assert message in run("read.py", cwd=tmp_path, status=1)[1]


def test_the_progress_callback_prints_a_line_a_step(tmp_path, ethanol):
    np.savez(tmp_path / "d.npz", **ethanol)
    (tmp_path / "train.py").write_text(
        "import numpy as np\nfrom sgdml.train import GDMLTrain\nfrom sgdml.utils import ui\n"
        "d = np.load('d.npz')\ntrain = GDMLTrain()\n"
        "task = train.create_task(d, 10, d, 10, sig=10, use_sym=False, callback=ui.callback)\n"
        "train.train(task, callback=ui.callback)\n"
    )
    printed, _ = run("train.py", cwd=tmp_path)
    assert "[DONE] Hashing dataset(s)" in printed
    assert printed.count("Assembling kernel matrix") == 1
