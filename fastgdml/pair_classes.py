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

# Arithmetic per pair, image and training point, and bookkeeping per class, permutation and training point.
_COST_PAIR, _COST_CLASS = 5, 4


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
        n_perms = len(images)
        representatives = _first_with_equal_image(images)
        patterns, member = np.unique(representatives.T, axis=0, return_inverse=True)
        member = member.ravel()

        identity = np.arange(n_perms)
        classes: list[tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]] = []
        leftover = np.zeros(images.shape[1], dtype=bool)
        for h, representative in enumerate(patterns):
            pairs = np.flatnonzero(member == h)
            pattern: npt.NDArray[np.integer] = np.unique(representative, return_inverse=True)[1]
            n_images = pattern.max() + 1
            shared_cost = _COST_PAIR * n_images * len(pairs) + _COST_CLASS * n_perms
            if shared_cost < _COST_PAIR * n_perms * len(pairs):
                classes.append((pattern, pairs))
            else:
                leftover[pairs] = True
        if leftover.any():
            classes.append((identity, np.flatnonzero(leftover)))

        image_pair = []
        for pattern, pairs in classes:
            examples = np.array([np.flatnonzero(pattern == image)[0] for image in range(pattern.max() + 1)])
            image_pair.append(images[np.ix_(examples, pairs)].ravel())
        class_image = _offsets([pattern.max() + 1 for pattern, _ in classes])
        perm_image = np.array([pattern for pattern, _ in classes]) + class_image[:-1, None]
        return cls(
            order=np.concatenate([pairs for _, pairs in classes]),
            class_begin=_offsets([len(pairs) for _, pairs in classes]),
            class_image=class_image,
            image_begin=_offsets([len(p) for p in image_pair]),
            image_pair=np.concatenate(image_pair).astype(np.int32),
            perm_image=perm_image.astype(np.int32),
            image_perm_begin=_offsets(np.bincount(perm_image.ravel()).tolist()),
            image_perm=(np.argsort(perm_image.ravel(), kind="stable") % n_perms).astype(np.int32),
        )


def _first_with_equal_image(images: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return, for each permutation and pair, the first permutation that gives the pair the same image."""
    order = np.argsort(images, axis=0, kind="stable")
    in_order = np.take_along_axis(images, order, axis=0)
    starts = np.ones(images.shape, dtype=bool)
    starts[1:] = in_order[1:] != in_order[:-1]
    start = np.maximum.accumulate(np.where(starts, np.arange(len(images))[:, None], 0), axis=0)
    first = np.empty(images.shape, dtype=np.int64)
    np.put_along_axis(first, order, np.take_along_axis(order, start, axis=0), axis=0)
    return first


def _offsets(lengths: list[int]) -> Int32:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
