import importlib.util
import json
import tomllib

import numpy as np
import pytest
from support.paths import ROOT

from fastgdml import doctor
from fastgdml.cli import main
from fastgdml.predict import GDMLPredict


def test_command(capsys):
    assert main(["doctor", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["passed"] is True
    names = [check["name"] for check in result["checks"]]
    assert len(names) >= 6
    assert all(check["passed"] for check in result["checks"])
    assert {"fastgdml", "instruction set", "threads", "blas", "gpu", "memory"} <= result["system"].keys()


def test_what_is_missing_has_an_install_line(capsys, monkeypatch):
    extra = doctor.Extra("report", {"matplotlib": None}, "pip install 'fastgdml[report]'")
    monkeypatch.setattr("fastgdml.cli.doctor.extras", lambda: [extra])
    assert main(["doctor", "--no_test"]) == 0
    assert "matplotlib missing: pip install 'fastgdml[report]'" in capsys.readouterr().out


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")
def test_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["optional-dependencies"].keys() - {"test", "dev", "docs", "peer", "nvrtc", "cross"}
    found = {extra.name: extra for extra in doctor.extras()}
    assert found.keys() == wanted
    assert found["report"].is_there
    assert found["report"].packages.keys() == {"matplotlib"}


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_faults_are_found(fault, monkeypatch, capsys):
    """A kernel that computes wrong numbers, or none, fails the test, whose exit status says so."""
    right = GDMLPredict.predict

    def predict(self, *args, **kwargs):
        if fault == "raises":
            raise RuntimeError("illegal instruction")
        E, F = right(self, *args, **kwargs)
        return E, F * (1 + 1e-3)

    monkeypatch.setattr(GDMLPredict, "predict", predict)
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "training in closed form" in captured.err
    assert "not to be trusted" in captured.err
    assert "search for symmetries: 6 permutations" in captured.out
    assert ("illegal instruction" in captured.err) == (fault == "raises")


@pytest.mark.skipif(not (ROOT / "tools").exists(), reason="needs the source tree")
def test_stored_numbers_are_those_of_the_formulas(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("make_self_test", ROOT / "tools" / "make_self_test.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    target = tmp_path / "numbers.json"
    monkeypatch.setattr("sys.argv", ["make_self_test.py", str(target)])
    make.main()
    new = json.loads(target.read_text())
    stored = json.loads((ROOT / "fastgdml" / "data" / "self_test.json").read_text())
    assert {key: new[key] for key in ("test", "perms", "sig")} == {key: stored[key] for key in ("test", "perms", "sig")}
    np.testing.assert_allclose(new["F"], stored["F"], atol=1e-4)
    np.testing.assert_allclose(new["E"], stored["E"], atol=1e-4)
