"""Classes of pairs, and the table that they stand for."""

from types import SimpleNamespace

import numpy as np

from fastgdml import _core


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
