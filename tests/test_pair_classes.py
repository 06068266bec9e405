from types import SimpleNamespace

import numpy as np
import pytest
from conftest import cyclic_group, symmetric_group_of_three
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgdml import _core
from fastgdml.group import GroupTables
from fastgdml.permutations import complete_group


def classes_of(images, *limit):
    """The tables of the native core."""
    return SimpleNamespace(**_core.pair_classes(np.ascontiguousarray(images, dtype=np.int32), *limit))


def images_from_classes(classes, n_perms):
    """The (P, D) table that the classes stand for."""
    images = np.full((n_perms, len(classes.order)), -1)
    for h in range(len(classes.perm_image)):
        positions = slice(classes.class_begin[h], classes.class_begin[h + 1])
        block = classes.image_pair[classes.image_begin[h] : classes.image_begin[h + 1]]
        block = block.reshape(classes.class_image[h + 1] - classes.class_image[h], -1)
        for p in range(n_perms):
            images[p, classes.order[positions]] = block[classes.perm_image[h, p] - classes.class_image[h]]
    return images


def check(perms):
    images = GroupTables.from_perms(perms).pair
    classes = classes_of(images)
    np.testing.assert_array_equal(np.sort(classes.order), np.arange(images.shape[1]))
    np.testing.assert_array_equal(images_from_classes(classes, len(images)), images)
    for image in range(classes.class_image[-1]):
        members = classes.image_perm[classes.image_perm_begin[image] : classes.image_perm_begin[image + 1]]
        np.testing.assert_array_equal(members, np.nonzero(classes.perm_image == image)[1])
    return classes, images


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 8).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=5, unique_by=tuple))
)
def test_classes_stand_for_the_table(perms):
    check(np.array(perms))


@pytest.mark.parametrize(
    ("perms", "at_most"),
    [(np.arange(9)[None, :], 1.0), (symmetric_group_of_three(21), 0.5), (cyclic_group(6, 6), 1.0)],
)
def test_sharing_saves_work(perms, at_most):
    classes, images = check(perms)
    assert len(classes.image_pair) <= at_most * images.size


def test_water_trimer_shares_four_fifths():
    # O last in each molecule: swap hydrogens, and exchange molecules
    swaps = [[1, 0, *range(2, 9)], [3, 4, 5, 0, 1, 2, 6, 7, 8], [3, 4, 5, 6, 7, 8, 0, 1, 2]]
    group = complete_group(np.array(swaps))
    assert len(group) == 48
    classes, images = check(group)
    assert len(classes.image_pair) < 0.25 * images.size
