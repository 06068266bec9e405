"""Selection of points from a pool: the greedy choice against its definition, the command, bad input."""

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms

from fastgdml import point_selection
from fastgdml.cli import main
from fastgdml.dataset import load_dataset
from fastgdml.descriptor import from_R, pair_permutation
from fastgdml.errors import UsageError
from fastgdml.formats import Frames
from fastgdml.formats.npz import Spool
from fastgdml.learning.growing import Labelled, System, task_of
from fastgdml.point_selection import SelectionOptions, integrated_variance_reduction, select_points
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

PERMS = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 4, 3, 5, 6, 7, 8]])


def plain_kernel(a, b, sig):
    """Equation (1), pair by pair."""
    k = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            for perm in PERMS:
                s = np.sqrt(5) * np.linalg.norm(x - y[pair_permutation(perm)]) / sig
                k[i, j] += (1 + s) * np.exp(-s)
    return k


def test_the_choice_is_the_largest_fall_of_the_weighted_sum_of_variances(ethanol):
    """Each pick against all that could have been picked, with posterior variances computed from scratch."""
    x, _ = from_R(ethanol["R"][:25].astype(float))
    x_ref, weights = x[5:20], np.random.default_rng(0).uniform(0.1, 3, 15)
    w = np.ones(15)
    sig = 2.0
    K, K_ref = plain_kernel(x, x, sig), plain_kernel(x_ref, x, sig)
    prior = plain_kernel(x_ref, x_ref, sig).diagonal()
    noise = 1e-8 * K.diagonal().mean()
    chosen = []
    for k in range(6):
        w = weights if k == 3 else w
        sums = []
        for j in range(25):
            some = [*chosen, j]
            inner = np.linalg.solve(K[np.ix_(some, some)] + noise * np.eye(len(some)), K_ref[:, some].T)
            sums.append(w @ (prior - np.einsum("ij,ji->i", K_ref[:, some], inner)) if j not in chosen else np.inf)
        chosen.append(int(np.argmin(sums)))
    kernel = point_selection._Kernel(PERMS, sig)
    asked, left = {}, {}

    def weigh(selected, variances):
        asked[len(selected)], left[len(selected)] = selected.copy(), variances
        return weights if len(selected) >= 3 else np.ones(15)

    np.testing.assert_array_equal(integrated_variance_reduction(kernel, x, x_ref, 6, weigh), chosen)
    np.testing.assert_array_equal(asked[3], chosen[:3])
    inner = np.linalg.solve(K[np.ix_(chosen[:3], chosen[:3])] + noise * np.eye(3), K_ref[:, chosen[:3]].T)
    np.testing.assert_allclose(left[3], prior - np.einsum("ij,ji->i", K_ref[:, chosen[:3]], inner), rtol=1e-6)


def test_weights_are_squared_errors_over_variances(here):
    """Of a model of what is selected; 0 where there is nothing left to learn."""
    pool = load_dataset("pool.npz")
    spool = Spool("spool.npz")
    try:
        spool.append(Frames(0, pool["z"], pool["R"], pool["E"], pool["F"]))
        model = point_selection._growing(spool, PERMS, 20.0, 1)
        references = np.arange(0, 400, 20)
        weigh = point_selection._Weights(spool, np.arange(100, 200), references, model)
        left = np.random.default_rng(0).uniform(1, 2, 20)
        weigh(np.arange(4), left)
        found = weigh(np.array([0, 1, 2, 3, 20, 33, 47]), left)
        train = np.array([100, 101, 102, 103, 120, 133, 147])
    finally:
        spool.discard()
    system = System(pool["z"], None, "", "", "pool", "unknown")
    points = Labelled(np.asarray(pool["R"][train], float), np.asarray(pool["F"][train], float), np.zeros(7))
    fresh = GDMLTrain(max_processes=1).train(task_of(system, points, PERMS, 20.0), solver="closed")
    _, F = GDMLPredict(fresh).predict(pool["R"][references].reshape(20, -1))
    squared = ((F - pool["F"][references].reshape(20, -1)) ** 2).mean(axis=1)
    expected = np.where(np.isin(references, train), 0, squared / left)
    assert (expected == 0).sum() == 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture
def here(tmp_path, monkeypatch, ethanol):
    monkeypatch.chdir(tmp_path)
    data = {key: ethanol[key][:400] for key in "REF"}
    np.savez("pool.npz", type="d", z=ethanol["z"], name="ethanol", e_unit="kcal/mol", r_unit="Ang", **data)
    ase.io.write("pool.xyz", [Atoms(ethanol["z"], r) for r in ethanol["R"][:150]])
    return tmp_path


def rows_in(dataset, pool):
    """Numbers of the geometries of a dataset in a pool."""
    known = {row.tobytes(): i for i, row in enumerate(np.asarray(pool["R"], dtype=np.float64))}
    return [known[row.tobytes()] for row in dataset["R"]]


def test_command(here, ethanol, capsys):
    command = ["select-points", "pool.npz", "40", "-p", "1"]
    assert main([*command, "-o", "a.npz"]) == 0
    out = capsys.readouterr().out
    assert "Drawing at random is nearly as good" in out
    assert "has the smallest leave-one-out errors" in out
    pool, a = load_dataset("pool.npz"), load_dataset("a.npz")
    rows = rows_in(a, pool)
    assert len(set(rows)) == 40
    for key in ("E", "F"):
        np.testing.assert_array_equal(a[key], pool[key][rows])
    assert (str(a["e_unit"]), str(a["name"])) == ("kcal/mol", "ethanol")
    # the same for the same seed
    assert main([*command, "-o", "b.npz", "--quiet"]) == 0
    assert rows_in(load_dataset("b.npz"), pool) == rows
    # fewer are the first of more, without labels: these decide nothing then
    for n in (10, 25):
        assert main(["select-points", "pool.npz", str(n), "--unlabelled", "-o", f"u{n}.npz", "--json"]) == 0
    assert rows_in(load_dataset("u10.npz"), pool) == rows_in(load_dataset("u25.npz"), pool)[:10]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["selected"] == 25
    assert not list(here.glob("*.part"))


def test_a_pool_without_labels(here):
    report = select_points("pool.xyz", 30, "u.xyz")
    frames = ase.io.read("u.xyz", ":")
    assert len(frames) == 30
    assert report.n_removed == 120
    pool = [frame.positions.round(6).tobytes() for frame in ase.io.read("pool.xyz", ":")]
    assert len({pool.index(frame.positions.round(6).tobytes()) for frame in frames}) == 30


def test_it_covers_the_pool_better_than_chance(here, ethanol):
    """The sum that is lowered is lower than for any of ten random draws."""
    select_points("pool.npz", 40, "u.npz", SelectionOptions(use_labels=False))
    x, _ = from_R(load_dataset("pool.npz")["R"].astype(float))
    kernel = point_selection._Kernel(PERMS, 20.0)

    def left(rows):
        K, k = kernel(x[rows], x[rows]), kernel(x[rows], x)
        return -(k * np.linalg.solve(K + 1e-8 * np.eye(len(K)), k)).sum()

    chosen = left(rows_in(load_dataset("u.npz"), load_dataset("pool.npz")))
    assert chosen < min(left(np.random.default_rng(s).choice(400, 40, replace=False)) for s in range(10))


def test_a_large_pool_takes_no_more_memory(here, monkeypatch):
    """Candidates and references are bounded; those that are not drawn are never selected."""
    monkeypatch.setattr(point_selection, "_MAX_CANDIDATES", 100)
    monkeypatch.setattr(point_selection, "_MAX_REFERENCES", 50)
    monkeypatch.setattr(point_selection, "_MOST_ROWS", 270)
    shapes, sizes = [], []
    plain = point_selection.integrated_variance_reduction

    def noting(kernel, x, x_ref, *others):
        shapes.append((len(x), len(x_ref)))
        order = plain(kernel, x, x_ref, *others)
        sizes.append(len(others[1].model))
        return order

    monkeypatch.setattr(point_selection, "integrated_variance_reduction", noting)
    select_points("pool.npz", 12, "a.npz", SelectionOptions(max_processes=1))
    select_points("pool.npz", 60, "b.npz", SelectionOptions(sig=20, max_processes=1))
    assert shapes == [(100, 50), (240, 50)]
    assert sizes == [10, 10]
    # for another seed others are drawn
    select_points("pool.npz", 60, "c.npz", SelectionOptions(sig=20, seed=1, max_processes=1))
    b, c = (set(rows_in(load_dataset(name), load_dataset("pool.npz"))) for name in ("b.npz", "c.npz"))
    assert b != c


def test_crystals(tmp_path, monkeypatch, shared):
    monkeypatch.chdir(tmp_path)
    data = load_dataset(shared("data/emt_cu111.npz"))
    part = {key: data[key][:60] for key in "REF"}
    np.savez("one.npz", type="d", z=data["z"], lattice=data["lattice"], **part)
    several = np.repeat(np.asarray(data["lattice"])[None], 60, axis=0)
    several[30:] *= 1.01
    np.savez("several.npz", type="d", z=data["z"], lattice=several, **part)
    np.savez("perms.npz", type="d", z=data["z"], lattice=several, perms=np.arange(len(data["z"]))[None], **part)
    select_points("one.npz", 8, "a.npz")
    assert load_dataset("a.npz")["lattice"].shape == (3, 3)
    select_points("perms.npz", 8, "b.npz")  # their labels are left out of account
    assert len(load_dataset("b.npz")["R"]) == 8


BAD = {
    "too many": (["pool.npz", "401"], "401 geometries are to be selected from a pool of 400"),
    "far too many": (["pool.npz", "2001"], "1 to 2000 can be"),
    "no pool": (["nothing.npz", "5"], "nothing.npz"),
    "output is there": (["pool.npz", "5", "-o", "pool.xyz"], "exists"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind, here, capsys):
    arguments, text = BAD[kind]
    before = sorted(path.name for path in here.iterdir())
    arguments = arguments if "-o" in arguments else [*arguments, "-o", "out.npz"]
    assert main(["select-points", *arguments]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[FAIL]")]
    assert len(said) == 1
    assert text in said[0]
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_number_that_is_none(here):
    with pytest.raises(UsageError, match=r"0 geometries are to be selected; 1 to 2000 can be"):
        select_points("pool.npz", 0, "a.npz")
