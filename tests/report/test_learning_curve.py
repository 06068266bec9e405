import json

import numpy as np
import pytest

from fastgdml.cli import main
from fastgdml.errors import DataError, FileFormatError, UsageError
from fastgdml.evaluate import prediction_errors
from fastgdml.learning_curve import CurveOptions, learning_curve, load_curve, save_curve
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

OPTIONS = CurveOptions(sigs=(10, 20), n_valid=30, n_test=100)


class Recorder(GDMLTrain):
    """Keeps the tasks that it trains, and the models."""

    def __init__(self):
        super().__init__(max_processes=1)
        self.tasks, self.models = [], []

    def train(self, task, *args, **kwargs):
        model = super().train(task, *args, **kwargs)
        self.tasks.append(task)
        self.models.append(model)
        return model


@pytest.fixture(scope="module")
def curve(ethanol):
    trainer, told = Recorder(), []
    points = learning_curve(ethanol, [40, 10, 20, 20], OPTIONS, trainer, on_point=told.append)
    return points, trainer, told


def test_sizes_ascend_and_errors_fall(curve, ethanol):
    points, _, told = curve
    assert [point.n_train for point in points] == [10, 20, 40]
    assert told == points[::-1]
    assert points[0].f_mae > points[1].f_mae > points[2].f_mae
    assert points[0].e_mae > points[2].e_mae
    assert {point.n_test for point in points} == {100}
    assert {(point.e_unit, point.r_unit) for point in points} == {("kcal/mol", "Ang")}


def test_training_points_are_nested_and_apart_from_the_others(curve, ethanol):
    _, trainer, _ = curve
    draws = [set(task["idxs_train"].tolist()) for task in trainer.tasks]
    assert [len(draw) for draw in draws] == [40, 40, 20, 10]  # sigma is chosen once, for the largest
    assert draws[0] == draws[1] > draws[2] > draws[3]
    for task in trainer.tasks:
        idxs = task["idxs_train"]
        np.testing.assert_array_equal(task["R_train"], ethanol["R"][idxs])
        np.testing.assert_array_equal(task["F_train"], ethanol["F"][idxs])
        np.testing.assert_array_equal(task["E_train"], ethanol["E"].ravel()[idxs])
        assert not draws[0] & set(task["idxs_valid"].tolist())


def test_errors_are_those_of_the_models(curve, ethanol):
    points, trainer, _ = curve
    best = points[-1]
    model = next(each for each in trainer.models[:2] if float(each["sig"]) == best.sig)
    errors = []
    for each in trainer.models[:2]:
        valid = prediction_errors(GDMLPredict(each), ethanol, trainer.tasks[0]["idxs_valid"], True)
        errors.append((valid.rmse["force"], float(each["sig"])))
    assert best.sig == min(errors)[1]
    # the test points are the first draw of the seed; what is left of all after them holds all other points
    from fastgdml.sampling import draw_points, generator

    idxs = draw_points(ethanol, 100, generator(OPTIONS.seed))
    known = set(trainer.tasks[0]["idxs_train"].tolist()) | set(trainer.tasks[0]["idxs_valid"].tolist())
    assert not known & set(idxs.tolist())
    found = prediction_errors(GDMLPredict(model), ethanol, idxs, True)
    assert (best.f_mae, best.e_rmse) == (found.mae["force"], found.rmse["energy"])


def test_sigma_for_every_size(ethanol):
    trainer = Recorder()
    points = learning_curve(
        ethanol, [10, 20], CurveOptions((5, 20), sigma_per_size=True, n_valid=20, n_test=30, use_E=False), trainer
    )
    assert [(len(task["idxs_train"]), task["sig"]) for task in trainer.tasks] == [(20, 5), (20, 20), (10, 5), (10, 20)]
    assert [point.e_mae for point in points] == [None, None]


def test_several_cells(ethanol):
    lattice = np.broadcast_to(30.0 * np.eye(3), (2000, 3, 3)).copy()
    lattice[::2] *= 1.1
    points = learning_curve({**ethanol, "lattice": lattice}, [8, 16], CurveOptions((20,), n_valid=5, n_test=20))
    assert points[0].f_mae > points[1].f_mae


def test_too_few_points(ethanol):
    with pytest.raises(UsageError, match=r"are 2,100, but the dataset has 2,000"):
        learning_curve(ethanol, [1900], CurveOptions(n_valid=100, n_test=100))
    with pytest.raises(UsageError, match="numbers of training points"):
        learning_curve(ethanol, [])
    with pytest.raises(UsageError, match="length scale"):
        learning_curve(ethanol, [5], CurveOptions(sigs=()))
    without = {key: value for key, value in ethanol.items() if key != "E"}
    with pytest.raises(UsageError, match="no energies"):
        learning_curve(without, [5])


def test_files(curve, tmp_path):
    points = curve[0]
    save_curve(tmp_path / "curve.csv", points)
    assert load_curve(tmp_path / "curve.csv") == points
    for content in (b"a,b\n1,2\n", b"\xff\xfe", (tmp_path / "curve.csv").read_bytes().replace(b",20.0,", b",x,", 1)):
        (tmp_path / "other.csv").write_bytes(content)
        if content.startswith(b"n_train") and b",x," not in content:
            continue
        with pytest.raises(DataError, match="no learning curve"):
            load_curve(tmp_path / "other.csv")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(FileFormatError, match="never replaced"):
        save_curve(tmp_path / "picture.png", points)


@pytest.mark.parametrize(("name", "start"), [("c.svg", b"<?xml"), ("c.png", b"\x89PNG"), ("c.pdf", b"%PDF")])
def test_command(name, start, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["learning-curve", "ethanol", "5:5:10", "-s", "20", "--n_valid", "10", "--n_test", "50", "-o", "c.csv"]
    assert main([*command, "--plot", name, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["n_train"] for line in lines] == [10, 5]
    assert [point.n_train for point in load_curve("c.csv")] == [5, 10]
    assert (tmp_path / name).read_bytes().startswith(start)
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--plot", "c.gif"]) == 1
    assert "must end in .svg" in capsys.readouterr().err
