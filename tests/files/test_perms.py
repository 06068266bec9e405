"""Permutations to train with are groups."""

from itertools import permutations

import numpy as np
import pytest

from fastgdml.errors import DataError
from fastgdml.perms import check_group
from fastgdml.permutations import complete_group


def is_group(perms):
    rows = {tuple(p) for p in perms}
    return len(rows) == len(perms) and all(tuple(np.array(p)[list(q)]) in rows for p in rows for q in rows)


def test_subsets_of_permutations_are_told_from_groups():
    """All pairs of permutations of four atoms, alone, with the identity, and with what completes them."""
    everything = np.array(list(permutations(range(4))))
    found = set()
    for i, p in enumerate(everything):
        for q in everything[i:]:
            for perms in (np.array([p, q]), np.array([np.arange(4), p, q]), complete_group(np.array([p, q]))):
                expected = is_group(perms)
                found.add(expected)
                if expected:
                    np.testing.assert_array_equal(check_group(perms), perms)
                else:
                    with pytest.raises(DataError, match="no group"):
                        check_group(perms)
    assert found == {True, False}


def test_large_groups_without_one_of_them_are_none():
    everything = np.array(list(permutations(range(6))))
    check_group(everything)
    with pytest.raises(DataError, match="no group: the product of its rows"):
        check_group(np.delete(everything, 300, axis=0))


def test_different_elements_are_not_exchanged():
    perms = [[0, 1, 2], [1, 0, 2]]
    check_group(perms, [1, 1, 8])
    with pytest.raises(DataError, match=r"row 1 takes atom 0 \(Z = 1\) to the place of atom 1 \(Z = 8\)"):
        check_group(perms, [1, 8, 1])
    with pytest.raises(DataError, match="perms is for 3 atoms; there are 2"):
        check_group(perms, [1, 1])
