import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from support.reports import CURVE, facts_of

from fastgdml.cli import main
from fastgdml.dataset import load_dataset
from fastgdml.elements import RADII
from fastgdml.errors import DataError, FileFormatError, UsageError
from fastgdml.evaluate import prediction_errors
from fastgdml.flat import export_flat
from fastgdml.learning_curve import save_curve
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict
from fastgdml.report import FORMATS, Facts, Sources, gather, write
from fastgdml.report.accuracy import density, histogram
from fastgdml.report.gather import _deviations
from fastgdml.report.molecule import disc_radii, view
from fastgdml.report.page import page
from fastgdml.report.pictures import pictures
from fastgdml.report.structure import bonds_of, cycles_of, embedded, geometry_of, orbits_of
from fastgdml.report.svg import inline_svg
from fastgdml.train import GDMLTrain


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return facts_of(9, tmp_path_factory.mktemp("model"))


@pytest.fixture
def model_file(tmp_path, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    return tmp_path / "model.npz"


@pytest.fixture(scope="module")
def facts_std(tmp_path_factory):
    """Those of a model with samples for standard deviations, and the model."""
    dataset, folder = load_dataset("ethanol"), tmp_path_factory.mktemp("std")
    task = GDMLTrain().create_task(dataset, 40, dataset, 10, sig=20, seed=0)
    model = GDMLTrain().train(task, n_std=8)
    save_model(folder / "model.npz", model)
    return gather(folder / "model.npz", Sources(dataset=dataset, n_test=300, timing=False)), model


# ---- facts


def test_facts_go_through_json(facts):
    assert Facts.from_json(facts.to_json()) == facts
    bare = dataclasses.replace(facts, accuracy=None, timing=None, learning_curve=[], search=[], expected={})
    assert Facts.from_json(bare.to_json()) == bare


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("origin"),
        lambda values: values.update(further=1),
        lambda values: values["origin"].update(n_atoms="nine"),
        lambda values: values["molecule"].update(orbits=3),
        lambda values: values["accuracy"]["forces"].pop("mae"),
    ],
)
def test_other_json_is_refused(facts, change):
    values = json.loads(facts.to_json())
    change(values)
    with pytest.raises(DataError, match="not the JSON of a report"):
        Facts.from_json(json.dumps(values))


def test_other_text_is_refused():
    for text in ("", "[1, 2]", "null", '{"a": 1}', "<html>"):
        with pytest.raises(DataError, match="not the JSON of a report"):
            Facts.from_json(text)


def test_errors_are_those_of_a_test(ethanol, model_file, ethanol_model):
    facts = gather(model_file, Sources(dataset=ethanol, n_test=10**6, timing=False))
    used = np.concatenate([ethanol_model["idxs_train"], ethanol_model["idxs_valid"]])
    idxs = np.setdiff1d(np.arange(len(ethanol["R"])), used)
    errors = prediction_errors(GDMLPredict(ethanol_model), ethanol, idxs, True)
    accuracy = facts.accuracy
    assert accuracy.n_geometries == accuracy.n_left == len(idxs)
    assert accuracy.forces.mae == pytest.approx(errors.mae["force"], rel=1e-12)
    assert accuracy.forces.rmse == pytest.approx(errors.rmse["force"], rel=1e-12)
    assert accuracy.energies.mae == pytest.approx(errors.mae["energy"], rel=1e-12)
    assert accuracy.energies.mean == pytest.approx(errors.mean["energy"], rel=1e-9)
    assert facts.timing is None

    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][idxs].reshape(len(idxs), -1))
    deviation = F.reshape(-1, 9, 3) - ethanol["F"][idxs]
    lengths = np.linalg.norm(deviation, axis=2)
    for a, spread in enumerate(accuracy.atoms):
        assert spread.mean == pytest.approx(lengths[:, a].mean(), rel=1e-12)
        assert spread.p95 == pytest.approx(np.quantile(lengths[:, a], 0.95), rel=1e-12)
    assert [(spread.label, spread.n_atoms) for spread in accuracy.elements] == [("H", 6), ("C", 2), ("O", 1)]
    rmse = np.sqrt((deviation**2).mean(axis=(1, 2)))
    order = np.argsort(-rmse)[:4]
    assert [each.number for each in accuracy.worst] == idxs[order].tolist()
    for each, i in zip(accuracy.worst, order, strict=True):
        assert each.f_rmse == pytest.approx(rmse[i])
        assert each.e_error == pytest.approx(E[i] - ethanol["E"][idxs[i]], abs=1e-9)
        np.testing.assert_allclose(each.atoms, lengths[i], atol=1e-6)
        np.testing.assert_allclose(each.geometry.R, ethanol["R"][idxs[i]], atol=1e-5)


def test_a_draw_of_test_points_is_repeated(ethanol, model_file):
    one, two = (gather(model_file, Sources(dataset=ethanol, n_test=50, timing=False)) for _ in range(2))
    assert one.accuracy == two.accuracy
    assert one.accuracy.n_geometries == 50
    assert gather(model_file, Sources(dataset=ethanol, n_test=50, seed=1, timing=False)).accuracy != one.accuracy


def test_other_units_are_converted(ethanol, model_file):
    kcal = 0.0433641153087705  # eV
    other = {**ethanol, "E": ethanol["E"] * kcal, "F": ethanol["F"] * kcal, "e_unit": np.array("eV"), "md5": b"1" * 32}
    sources = [Sources(dataset=dataset, n_test=10**6, timing=False) for dataset in (ethanol, other)]
    one, two = (gather(model_file, each).accuracy for each in sources)
    assert one.n_left - two.n_left in (0, -40)  # by its geometries only what was trained on is known
    assert two.forces.mae == pytest.approx(one.forces.mae, rel=0.02)
    assert two.energies.mae == pytest.approx(one.energies.mae, rel=0.02)


def test_without_a_dataset_the_model_tells_the_geometry(ethanol, model_file, ethanol_model):
    facts = gather(model_file)
    assert facts.accuracy is None
    R = np.array(facts.molecule.geometry.R)
    first = ethanol["R"][ethanol_model["idxs_train"][0]]
    distances = [np.linalg.norm(each[:, None] - each, axis=2) for each in (R, first)]
    np.testing.assert_allclose(*distances, atol=2e-5)
    assert "mirror image" in facts.molecule.geometry_from
    assert facts.timing.bulk_per_s > 0
    assert "not compared with a dataset" in page(facts)


def test_flat_models(ethanol, tmp_path, ethanol_model, model_file):
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    flat = gather(tmp_path / "model.fgdml", Sources(dataset=ethanol, n_test=10**6, timing=False))
    assert flat.accuracy.n_geometries == 1970  # which are validation points is not recorded
    assert flat.origin.n_train == 30
    assert flat.origin.n_perms == 6
    assert flat.molecule.orbits == []  # flat models hold permutations of pairs only
    assert "Validation points" not in flat.origin.entries
    assert "no permutations but the identity" not in page(flat)


def test_a_dataset_without_unseen_points(ethanol, model_file, ethanol_model, caplog):
    idxs = ethanol_model["idxs_train"]
    known = {**{key: ethanol[key] for key in ("z", "name", "theory", "e_unit", "r_unit")}, "md5": b"0" * 32}
    known |= {key: ethanol[key][idxs] for key in ("R", "F", "E")}
    assert gather(model_file, Sources(dataset=known, timing=False)).accuracy is None
    assert "The report has no test" in caplog.text


def test_the_search_is_recorded_by_the_model_that_it_selects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["all", "ethanol", "20", "20", "20", "--seed", "1", "-s", "10", "20", "--model_file", "m", "--quiet"]
    assert main(arguments) == 0
    recorded = load_model("m.npz")["search_errors"]
    assert recorded.shape == (2, 5)
    assert recorded[:, 0].tolist() == [10, 20]
    trials = gather("m.npz", Sources(timing=False)).search
    assert [trial.sig for trial in trials] == [10, 20]
    best = min(trials, key=lambda trial: trial.f_rmse)
    assert best.sig == float(load_model("m.npz")["sig"])
    assert [best.f_mae, best.f_rmse, best.e_mae, best.e_rmse] == recorded[int(best.sig == 20), 1:].tolist()


# ---- structure


def test_radii_are_those_of_ase():
    data = pytest.importorskip("ase.data")
    np.testing.assert_allclose(RADII[1:], data.covalent_radii[1 : len(RADII)])


@pytest.mark.parametrize("scale", [1.0, 1.889726, 0.1])
def test_bonds_in_any_unit(ethanol, scale):
    bonds = bonds_of(scale * ethanol["R"][0], ethanol["z"])
    assert bonds == [[0, 1], [0, 6], [0, 7], [0, 8], [1, 2], [1, 4], [1, 5], [2, 3]]


def test_positions_from_distances():
    rng = np.random.default_rng(0)
    for n in (2, 3, 4, 12):
        R = rng.normal(size=(n, 3))
        low = np.tril_indices(n, -1)
        distances = np.linalg.norm(R[:, None] - R, axis=2)
        found = embedded(distances[low], n)
        np.testing.assert_allclose(np.linalg.norm(found[:, None] - found, axis=2), distances, atol=1e-10)


def test_permutations_in_words():
    perms = np.array([[0, 1, 2, 3, 4], [1, 2, 0, 3, 4], [0, 1, 2, 4, 3]])
    assert orbits_of(perms) == [[0, 1, 2], [3, 4]]
    assert [cycles_of(perm) for perm in perms] == ["()", "(0 1 2)", "(3 4)"]
    assert orbits_of(perms[:1]) == []


def test_views_are_rotations_that_show_flat_molecules_flat():
    angle = 2 * np.pi * np.arange(6) / 6
    ring = 1.4 * np.stack([np.cos(angle), np.zeros(6), np.sin(angle)], axis=1)
    turn = view(ring, disc_radii(geometry_of(ring, [6] * 6), [6] * 6))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert abs((ring @ turn.T)[:, 2]).max() < 0.3


def test_counts_add_up():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 1000))
    assert sum(cell[2] for cell in density(a, b).cells) == 1000
    counted = histogram(a)
    assert sum(counted.counts) + counted.n_outside == 1000
    assert counted.low == -counted.high
    for constant in (np.zeros(5), np.full(5, 1e9), np.full(5, -3.0)):
        assert sum(cell[2] for cell in density(constant, constant).cells) == 5
        assert sum(histogram(constant).counts) == 5


# ---- files


class _Page(HTMLParser):
    """Identifiers, addresses and scripts of a page."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loaded, self.scripts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag in ("a", "use") else []
        self.loaded += [values[key] for key in ("src", "srcset", "data", "poster") if key in values]
        self.loaded += [values.get("href", values.get("xlink:href"))] if tag in ("link", "image") else []
        self.scripts += [values.get("type")] if tag == "script" else []
        assert not [key for key in values if key.startswith("on")]


def test_the_page_is_whole_and_asks_nothing_of_a_network(facts):
    html = page(facts)
    assert page(facts) == html
    parsed = _Page()
    parsed.feed(html)
    assert len(parsed.ids) == len(set(parsed.ids))
    inside = [link[1:] for link in parsed.links if link.startswith("#")]
    assert len(inside) > 100
    assert set(inside) <= set(parsed.ids)
    assert all(link.startswith(("#", "https://doi.org/")) for link in parsed.links)
    assert all(address.startswith("data:") for address in parsed.loaded)
    assert parsed.scripts == ["application/json"]
    assert not re.search(r"@import|url\((?!#)", html)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(parsed.ids)
    assert html.count("<svg") == len(pictures(facts)) == 10
    data = re.search(r'<script type="application/json" id="facts">(.*?)</script>', html, re.DOTALL)[1]
    assert Facts.from_json(data) == facts


def test_hostile_names_are_text(facts):
    name = "</script><script>alert(1)</script><b>&\"'"
    origin = dataclasses.replace(facts.origin, name=name, theory=name, file=name)
    html = page(dataclasses.replace(facts, origin=origin, accuracy=None))
    assert "<script>alert" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_pictures_keep_text_and_take_colours_from_the_page(facts):
    for picture in pictures(facts):
        svg = inline_svg(picture)
        assert "<text" in svg
        assert "var(--ink)" in svg
        assert not re.search(r"#(?:1b1f23|5f6870|d9dee2)", svg)
    titles = [picture.title for picture in pictures(facts)]
    assert titles[:3] == ["Symmetry", "Search for sigma", "Forces"]


def test_units_are_on_every_axis(facts):
    from fastgdml.report.style import new_figure, styled

    for picture in pictures(facts):
        with styled():
            figure = new_figure(picture.height)
            picture.draw(figure)
        labelled = [axes for axes in figure.axes if axes.axison]
        assert labelled or picture.name == "molecule"
        for axes in labelled:
            for axis, ticks in ((axes.xaxis, axes.get_xticklabels()), (axes.yaxis, axes.get_yticklabels())):
                shown = [tick.get_text() for tick in ticks if tick.get_visible() and tick.get_text()]
                names_atoms = all(re.match(r"[A-Z][a-z]? ", text) for text in shown)
                shared = not axis.get_tick_params()["labelbottom" if axis.axis_name == "x" else "labelleft"]
                assert names_atoms or shared or re.search(r"\[.+\]", axis.get_label_text()), (picture.name, shown)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name, facts, tmp_path):
    path = tmp_path / f"report.{name}"
    write(facts, path)
    content = path.read_bytes()
    if name in ("json", "md"):
        write(facts, path)  # a report replaces one
        assert path.read_bytes() == content
    start = {"html": b"<!DOCTYPE html>", "png": b"\x89PNG", "pdf": b"%PDF", "json": b"{", "md": b"# ethanol (C2H6O)"}
    assert content.startswith(start[name])
    if name == "json":
        assert Facts.from_json(content.decode()) == facts
    if name == "md":
        assert "| Force components |" in content.decode()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_no_other_file_is_replaced(facts, tmp_path, model_file):
    before = model_file.read_bytes()
    for name in FORMATS:
        with pytest.raises(FileFormatError, match="never replaced"):
            write(facts, model_file, name)
    assert model_file.read_bytes() == before
    with pytest.raises(UsageError, match="Which format"):
        write(facts, tmp_path / "report.docx")


def test_without_matplotlib_the_message_says_what_to_install(facts, tmp_path, model_file):
    code = f"""
import sys
sys.modules["matplotlib"] = None
from fastgdml.cli import main
model = {str(model_file)!r}
sys.exit(10 * main(["report", model, "-o", "r.html"]) + main(["report", model, "-o", "r.md"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 10, done.stderr
    assert "pip install 'fastgdml[report]'" in done.stderr
    assert not (tmp_path / "r.html").exists()
    assert (tmp_path / "r.md").exists()


# ---- command line


def test_command(tmp_path, model_file, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_curve("curve.csv", CURVE)
    command = ["report", "model.npz", "ethanol", "-o", "r.html", "--n_test", "40", "--learning-curve", "curve.csv"]
    assert main([*command, "--json", "--no_timing"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == "r.html"
    assert result["n_test"] == 40
    assert "Learning curve" in (tmp_path / "r.html").read_text()
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--no_timing"]) == 0
    assert "Predicting 40 test points" in capsys.readouterr().out
    assert main(["report", "model.npz", "-o", "x.html", "--learning-curve", "r.html"]) == 1
    assert "no learning curve" in capsys.readouterr().err
    assert main(["report", "model.npz", "-o", "nowhere/x.html"]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["report", "ethanol", "-o", "x.html"]) == 1
    assert not (tmp_path / "x.html").exists()


def test_models_of_other_atoms(model_file, tmp_path, capsys):
    other = load_dataset("ethanol")
    other = {**other, "z": other["z"][::-1]}
    with pytest.raises(DataError):
        gather(model_file, Sources(dataset=other))


# ---- weights


def test_weights_are_drawn_and_listed(ethanol, tmp_path):
    trainer = GDMLTrain(max_processes=1)
    task = trainer.create_task(ethanol, 30, ethanol, 60, sig=20, seed=3, weights="orbits")
    assert "desc_weights" in task
    save_model(tmp_path / "model.npz", trainer.train(task))
    facts = gather(tmp_path / "model.npz", Sources(timing=False))
    weights = np.array([each.weight for each in facts.weights])
    assert (np.diff(weights) <= 0).all()
    assert weights[0] == pytest.approx(task["desc_weights"].max())
    assert facts.origin.entries["Weights of pairs"] == "learned (orbits)"
    assert Facts.from_json(facts.to_json()) == facts
    html = page(facts)
    assert "Learned weights of pairs" in html
    assert facts.weights[0].pairs in html
    write(facts, tmp_path / "report.md")
    assert f"| {facts.weights[-1].pairs} | {facts.weights[-1].weight:.3g} |" in (tmp_path / "report.md").read_text()

    export_flat(tmp_path / "model.fgdml", load_model(tmp_path / "model.npz"))
    flat = gather(tmp_path / "model.fgdml", Sources(timing=False))
    assert flat.weights == []
    assert flat.origin.entries["Weights of pairs"] == "learned"


# ---- standard deviations


def test_deviations_against_errors(facts_std):
    facts, model = facts_std
    assert Facts.from_json(facts.to_json()) == facts
    deviations = facts.accuracy.deviations
    parts = np.array(deviations.parts)
    assert parts.shape == (10, 2)
    assert (np.diff(parts[:, 0]) > 0).all()
    # Parts are of equal size: their mean squares make those of all.
    std, error = np.sqrt((parts**2).mean(axis=0))
    assert error == pytest.approx(facts.accuracy.forces.rmse, rel=1e-9)
    assert error / std == pytest.approx(deviations.force_ratio, rel=1e-9)
    assert 0.3 < deviations.rank_correlation < 1
    residuals = model["loo_f"]
    assert facts.left_out.mae == pytest.approx(np.abs(residuals).mean())
    assert facts.left_out.rmse == pytest.approx(np.sqrt((residuals**2).mean()))


def test_deviations_are_drawn_and_told(facts_std, facts, tmp_path):
    with_std, _ = facts_std
    assert "deviations" in [picture.name for picture in pictures(with_std)]
    html = page(with_std)
    assert 'id="deviations"' in html
    assert "training points left out" in html
    write(with_std, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Standard deviations" in text
    assert "| 10 of 10 |" in text
    test_units_are_on_every_axis(with_std)
    assert facts.accuracy.deviations is facts.left_out is None
    assert 'id="deviations"' not in page(facts)


def test_deviations_that_are_no_numbers_are_left_out(facts_std):
    """Scaled to 0: there is no ratio, and JSON and pictures are written as before."""
    facts, model = facts_std
    predictor = GDMLPredict({**model, "std_scale": 0.0})
    dataset = load_dataset("ethanol")
    found = _deviations(predictor, dataset, np.arange(30), True, None)
    assert found.force_ratio is found.energy_ratio is None
    changed = dataclasses.replace(facts, accuracy=dataclasses.replace(facts.accuracy, deviations=found))
    assert Facts.from_json(changed.to_json()) == changed
    assert "Error over deviation: - of forces" in page(changed)
