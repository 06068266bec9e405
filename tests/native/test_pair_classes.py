import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.molecules import cyclic_group, symmetric_group_of_three
from support.pair_classes import classes_of, images_from_classes

from fastgdml.group import GroupTables
from fastgdml.permutations import complete_group


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
