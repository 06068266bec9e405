"""Classes of atom pairs that share work across permutations in prediction.

Under a permutation group most pairs have few distinct images. Pairs for which the same permutations give the same
image form a class; distances and projections are then computed once for each (class, image) and added up for each
permutation, so a geometry costs sum_h n_h D_h instead of P D pair evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]

# Arithmetic per pair, image and training point, and bookkeeping per class, permutation and training point. With many
# permutations, the numbers to be looked up no longer lie in the fastest cache.
_COST_PAIR, _COST_CLASS, _COST_CLASS_MANY, _MANY_PERMS = 5, 4, 25, 64
# Images of all classes, but for the one where every permutation has its own: a bound on the scratch of prediction.
_MAX_IMAGES = 2**14


@dataclass(frozen=True)
class PairClasses:
    """Pairs in class order and their images, in the layout of `gdml_predictor` (src/gdml.h).

    Attributes
    ----------
    order : ndarray of int64, shape (D,)
        Pairs, class by class.
    class_begin : ndarray of int32, shape (H + 1,)
        First position of each class in `order`.
    class_image : ndarray of int32, shape (H + 1,)
        Number of the first image of each class; a class has n_h of them.
    image_begin : ndarray of int32, shape (H + 1,)
        First position of each class in `image_pair`.
    image_pair : ndarray of int32, shape (sum n_h D_h,)
        Class by class, (n_h, D_h): the pair of the query that takes the place of a pair of the training points.
    perm_image : ndarray of int32, shape (H, P)
        Number of the image that each permutation gives a class.
    image_perm_begin : ndarray of int32, shape (sum n_h + 1,)
        First position of each image in `image_perm`.
    image_perm : ndarray of int32, shape (H * P,)
        The permutations that give each image.
    """

    order: npt.NDArray[np.int64]
    class_begin: Int32
    class_image: Int32
    image_begin: Int32
    image_pair: Int32
    perm_image: Int32
    image_perm_begin: Int32
    image_perm: Int32

    @classmethod
    def from_pair_images(cls, images: npt.NDArray[np.integer]) -> PairClasses:
        """Sort pairs into classes.

        Parameters
        ----------
        images : ndarray, shape (P, D)
            Image of each pair under each permutation.
        """
        n_perms, n_desc = images.shape
        # A pair's pattern: for each permutation, the first that gives the pair the same image.
        alike: dict[bytes, list[int]] = {}
        first = np.empty(n_desc, dtype=np.int32)
        backwards = np.arange(n_perms - 1, -1, -1, dtype=np.int32)
        for k in range(n_desc):
            image = images[:, k]
            first[image[::-1]] = backwards  # the last assignment counts
            alike.setdefault(first[image].tobytes(), []).append(k)

        # Classes that save work, those that save most for each image first; the other pairs share nothing.
        cost_class = _COST_CLASS if n_perms <= _MANY_PERMS else _COST_CLASS_MANY
        candidates = []
        for pattern, pairs in alike.items():
            examples, number = np.unique(np.frombuffer(pattern, dtype=np.int32), return_inverse=True)
            saving = _COST_PAIR * (n_perms - len(examples)) * len(pairs) - cost_class * n_perms
            candidates.append((saving / len(examples), examples, number, pairs))
        classes: list[tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], list[int]]] = []
        leftover: list[int] = []
        n_images = 0
        for saving, examples, number, pairs in sorted(candidates, key=lambda candidate: -candidate[0]):
            if saving > 0 and n_images + len(examples) <= _MAX_IMAGES:
                classes.append((examples, number, pairs))
                n_images += len(examples)
            else:
                leftover += pairs
        if leftover:
            classes.append((np.arange(n_perms), np.arange(n_perms), sorted(leftover)))

        image_pair = [images[np.ix_(examples, np.array(pairs))].ravel() for examples, _, pairs in classes]
        class_image = _offsets([len(examples) for examples, _, _ in classes])
        perm_image = np.array([number for _, number, _ in classes], dtype=np.int32) + class_image[:-1, None]
        return cls(
            order=np.concatenate([pairs for _, _, pairs in classes]).astype(np.int64),
            class_begin=_offsets([len(pairs) for _, _, pairs in classes]),
            class_image=class_image,
            image_begin=_offsets([len(p) for p in image_pair]),
            image_pair=np.concatenate(image_pair).astype(np.int32),
            perm_image=perm_image.astype(np.int32),
            image_perm_begin=_offsets(np.bincount(perm_image.ravel()).tolist()),
            image_perm=(np.argsort(perm_image.ravel(), kind="stable") % n_perms).astype(np.int32),
        )


def _offsets(lengths: list[int]) -> Int32:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
