"""What commands print: lines of JSON for programs, nothing for --quiet, one line a stage in a log."""

import json
import re
from pathlib import Path

import pytest

from fastgdml.cli import main
from fastgdml.cli.console import Console
from fastgdml.cli.parser import build_parser

FOLDER = "sgdml_cv_ethanol-gfn2-xtb-train20-sym"
CURVE = ["--n_valid", "5", "--n_test", "9"]

# In this order, in one folder.
STEPS = {
    "create": ["create", "ethanol", "20", "20", "--seed", "1", "-s", "10", "20"],
    "train": ["train", FOLDER, "ethanol"],
    "validate": ["validate", FOLDER, "ethanol", "-o"],
    "select": ["select", FOLDER, "--model_file", "m"],
    "test": ["test", "m.npz", "ethanol", "30"],
    "show": ["show", "m.npz"],
    "show dataset": ["show", "ethanol"],
    "export": ["export", "m.npz", "m.fgdml"],
    "show flat": ["show", "m.fgdml"],
    "report": ["report", "m.npz", "ethanol", "-o", "r.json", "--no_timing"],
    "learning-curve": [
        "learning-curve",
        "ethanol",
        "5",
        "10",
        "-s",
        "20",
        "--n_valid",
        "5",
        "--n_test",
        "9",
        "-o",
        "c.csv",
    ],
    "dataset": ["dataset", "info", "ethanol"],
    "predict": ["predict", "m.npz", "ethanol", "-o", "p.npz"],
    "vibrations": ["vibrations", "m.npz", "ethanol"],
    "select-points": ["select-points", "ethanol", "5", "-s", "20", "-o", "s.npz", "--overwrite"],
    "get": ["get"],
    "doctor": ["doctor", "--no_test"],
    "reset": ["reset", "-y"],
    "all": ["all", "ethanol", "10", "10", "10", "--seed", "1", "-s", "10", "--model_file", "n"],
}
# What must be among the results of each.
KEYS = {
    "create": {"directory", "n_tasks"},
    "train": {"sig", "path"},
    "validate": {"path", "mae", "rmse"},
    "select": {"sig", "candidates"},
    "test": {"n_test", "mae", "rmse", "recorded"},
    "show": {"sig", "n_train", "solver", "mae"},
    "show dataset": {"n_geometries", "forces", "md5"},
    "export": {"path", "format"},
    "show flat": {"sig", "n_train"},
    "report": {"path", "f_mae"},
    "learning-curve": {"n_train", "f_mae", "seconds"},
    "dataset": {"kinds"},
    "predict": {"files", "mae"},
    "vibrations": {"frequencies"},
    "select-points": {"files", "selected"},
    "get": {"examples"},
    "doctor": {"system", "extras", "passed"},
    "reset": {"path", "deleted"},
    "all": {"path", "mae", "recorded"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path / "downloads"))
    return tmp_path


def _refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_every_command_gives_results_to_programs(folder, capsys):
    for name, arguments in STEPS.items():
        assert main([*arguments, "--json"]) == 0, name
        lines = capsys.readouterr().out.splitlines()
        results = [json.loads(line, parse_constant=_refuse) for line in lines]
        assert results, name
        assert any(KEYS[name] <= result.keys() for result in results), (name, results)


def test_every_command_is_quiet_where_it_is_asked_to(folder, capsys):
    for name, arguments in STEPS.items():
        assert main([*arguments, "--quiet"]) == 0, name
        assert capsys.readouterr().out == "", name
    assert {path.name for path in Path().iterdir()} >= {"m.npz", "n.npz", "r.json", "c.csv", "p.npz"}


def test_no_command_is_left_out():
    (commands,) = (action.choices for action in build_parser()._actions if action.dest == "command")
    elsewhere = {"resume", "completion", "learn"}  # learn: tests/learning
    assert {name.split()[0] for name in STEPS} | elsewhere == set(commands)
    for name, command in commands.items():
        parsers = [command]
        if name == "dataset":
            (parsers,) = (list(action.choices.values()) for action in command._actions if action.dest == "action")
        for parser in parsers:
            options = {option for action in parser._actions for option in action.option_strings}
            assert ({"--quiet", "--json"} <= options) == (name != "completion"), name


def test_nothing_is_asked_of_programs(folder, capsys):
    (folder / "downloads" / "models").mkdir(parents=True)
    assert main(["reset", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--yes" in captured.err
    assert (folder / "downloads" / "models").exists()


def test_a_log_has_one_line_a_stage(folder, capsys):
    assert main(["all", "ethanol", "20", "20", "20", "--seed", "1", "-s", "10", "20"]) == 0
    out = capsys.readouterr().out
    for stage in ("Testing on 20 points", "Finding permutational symmetries"):
        assert len(re.findall(rf"\[DONE\] {stage}", out)) == 1
    assert "\r" not in out
    assert "\x1b" not in out


def test_numbers_that_json_lacks_are_null(capsys):
    Console(as_json=True).result({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}})
    assert json.loads(capsys.readouterr().out, parse_constant=_refuse) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
    }


def test_a_bar_shows_rate_and_time_left():
    from rich.progress import Progress

    from fastgdml.cli.console import _RateColumn

    clock = iter(range(1000))
    progress = Progress(_RateColumn(), get_time=lambda: float(next(clock)))
    task = progress.add_task("work", total=100)
    column = _RateColumn()
    assert column.render(progress.tasks[0]).plain == ""
    for done in (20, 40, 60):
        progress.update(task, completed=done)
    assert re.fullmatch(r"\d+/s", column.render(progress.tasks[0]).plain)
