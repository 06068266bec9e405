"""Permutation groups of every structure, up to thousands of members, in assembly and prediction."""

import subprocess
import sys
import textwrap
from itertools import permutations

import numpy as np
import pytest
import reference as oracle
from support.crystal_groups import BCC, FCC, crystal_group, model_of, tripods
from support.molecules import cyclic_group, random_molecules
from support.pair_classes import classes_of, images_from_classes
from support.paths import ROOT

from fastgdml.descriptor import perms_from_lin, tril_perms_lin
from fastgdml.errors import DataError
from fastgdml.group import GroupTables
from fastgdml.kernel import assemble_full
from fastgdml.permutations import complete_group
from fastgdml.predict import GDMLPredict
from fastgdml.training_set import TrainingSet

GROUPS = {
    "one": lambda: np.arange(6)[None],
    "two atoms, none moving": lambda: np.array([[0, 1], [1, 0]]),
    "all moving": lambda: cyclic_group(7, 7),
    "some moving": lambda: cyclic_group(7, 4),
    "no group": lambda: np.array([[1, 2, 0, 3, 4], [0, 1, 3, 2, 4], [4, 3, 2, 1, 0]]),
    "translations": lambda: crystal_group(2, BCC, point_group=False),
    "tripods": lambda: tripods(3),
    "crystal": lambda: crystal_group(2, BCC),
    "all of seven": lambda: np.array(list(permutations(range(7)))),
}
SIZES = {"translations": 16, "tripods": 216, "crystal": 768, "all of seven": 5040}


def few_by_few(perms, evaluate):
    """The sum over a group of what a few of its permutations at a time give: another way through the tables."""
    shuffled = np.random.default_rng(0).permutation(perms)
    return sum(evaluate(shuffled[first : first + 12]) for first in range(0, len(perms), 12))


@pytest.mark.parametrize("name", [name for name in GROUPS if name != "no group"])
def test_assembly(name):
    perms = GROUPS[name]()
    assert len(perms) == SIZES.get(name, len(perms))
    R = random_molecules(2, perms.shape[1])
    K = assemble_full(TrainingSet.from_R(R, perms, 4.0))
    if perms.shape[1] < 8:
        expected = oracle.kernel_matrix(R, perms, 4.0)
    else:  # dense matrices of thousands of permutations take the oracle minutes
        expected = few_by_few(perms, lambda few: assemble_full(TrainingSet.from_R(R, few, 4.0)))
    np.testing.assert_allclose(K, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", GROUPS)
def test_prediction(name):
    perms = GROUPS[name]()
    R = random_molecules(3, perms.shape[1])
    model, alphas = model_of(R, perms)
    queries = random_molecules(5, perms.shape[1], seed=1)
    E, F = GDMLPredict(model).predict(queries)
    if perms.shape[1] < 8:
        E_ref, F_ref = oracle.predict(queries, R, alphas, perms, 4.0, 1.5, 0.0)
    else:

        def predict(few):
            E, F = GDMLPredict(model_of(R, few)[0]).predict(queries)
            return np.column_stack([E, F])

        sums = few_by_few(perms, predict)
        E_ref, F_ref = sums[:, 0], sums[:, 1:]
    scale = np.abs(F_ref).max()
    np.testing.assert_allclose(F, F_ref.reshape(F.shape), rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-11 * scale)
    for i in range(5):  # the number of geometries of a call changes how they are laid out, not the result
        np.testing.assert_array_equal(GDMLPredict(model, max_processes=1).predict(queries[i])[1][0], F[i])
    for perm in perms[:: max(1, len(perms) // 5)]:
        if name != "no group":
            np.testing.assert_allclose(GDMLPredict(model).predict(queries[:, perm])[0], E, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("limit", [0, 3, 100])
def test_classes_keep_to_their_limit(limit):
    """Classes without room share nothing."""
    perms = tripods(2)
    assert len(perms) == 36
    images = GroupTables.from_perms(perms).pair
    classes = classes_of(images, limit)
    last = classes.class_image[-1] - classes.class_image[-2]
    shared = classes.class_image[-2] if last == len(perms) else classes.class_image[-1]
    assert shared <= limit
    np.testing.assert_array_equal(images_from_classes(classes, len(perms)), images)


def test_closure_does_not_depend_on_the_generators():
    group = crystal_group(2, FCC)
    assert len(group) == 1536
    some = np.random.default_rng(0).choice(len(group), 700, replace=False)
    closed = complete_group(group[some])
    np.testing.assert_array_equal(closed[:700], group[some])
    np.testing.assert_array_equal(np.unique(closed, axis=0), np.unique(group, axis=0))
    assert complete_group(group[some], 1536) is None
    assert len(complete_group(group[some], 1537)) == 1536


def test_permutations_from_pair_permutations():
    for perms in (tripods(3), np.array([[0, 1], [1, 0]]), np.array(list(permutations(range(3))))):
        found = perms_from_lin(tril_perms_lin(perms), perms.shape[1] * (perms.shape[1] - 1) // 2)
        np.testing.assert_array_equal(tril_perms_lin(found), tril_perms_lin(perms))
    pairs = np.random.default_rng(0).permutation(10)  # of pairs, but of no five atoms
    with pytest.raises(DataError, match="permutations of atoms"):
        perms_from_lin(pairs, 10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read in Linux's units")
def test_memory_does_not_grow_with_the_group_times_the_training_set():
    """1536 permutations, 300 points of 32 atoms: permuted copies of the training set would take 1.8 GB."""
    script = """
        import resource
        import numpy as np
        from support.crystal_groups import FCC, crystal_group, model_of
        from support.molecules import random_molecules
        from fastgdml.kernel import assemble_columns
        from fastgdml.predict import GDMLPredict
        from fastgdml.training_set import TrainingSet

        perms = crystal_group(2, FCC)
        R = random_molecules(300, 32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model, _ = model_of(R, perms)
        E, F = GDMLPredict(model, max_processes=1).predict(R[:3])
        K = assemble_columns(TrainingSet.from_R(R, perms, 4.0), [0, 1, 2], n_threads=1)
        assert np.isfinite(F).all() and np.isfinite(K).all()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT / "tests", check=True
    )
    assert float(done.stdout) < 250, "MB"
