"""Geometries of a model or task in a dataset: recognised by fingerprint, and by themselves.

A dataset that holds training points is not always the one that they were drawn from: it may be a longer file of the
same run, or the same data written by another program. Geometries are compared by their descriptors, which rigid motions
do not change, and the rounding of stored positions hardly.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cell import Cell, image_rule_of
from .dataset import Points, has_fingerprint, same_fingerprint, take_points
from .descriptor import Array, IntArray, from_R
from .errors import UsageError
from .npz import text
from .units import Conversion, Units, conversion

_log = logging.getLogger(__name__)

# Geometries are the same if their descriptors differ by less than this share of their norm. Single precision and five
# decimals give up to 1e-5, successive frames of molecular dynamics some 1e-4.
_TOLERANCE = 2e-5
# Geometries whose descriptors are computed at a time.
_CHUNK = 1000
# Descriptors are searched by their projections on this many directions.
_N_PROJECTIONS = 8


@dataclass(frozen=True)
class KnownGeometries:
    """Training geometries as a model or task holds them.

    Attributes
    ----------
    x : ndarray, shape (M, D)
        Descriptors.
    image_rule : str
        How differences are folded into a cell.
    units : Units
        Units of the descriptors.
    """

    x: Array
    image_rule: str
    units: Units

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> KnownGeometries | None:
        """Return the training geometries of a task or model; None if it holds none."""
        if "R_train" in entries:
            x = from_R(np.asarray(entries["R_train"]), Cell.of(entries))[0]
        elif "R_desc" in entries:
            x = np.ascontiguousarray(np.asarray(entries["R_desc"], dtype=np.float64).T)
            if entries.get("desc_weights") is not None:
                x = x / entries["desc_weights"]
        else:
            return None
        return cls(x, image_rule_of(entries), Units.of(entries))

    def are_at(self, dataset: Mapping[str, Any], idxs: IntArray) -> bool:
        """Return whether points of a dataset are these geometries, in this order."""
        if len(idxs) != len(self.x) or not _in_range(idxs, dataset):
            return False
        x = self._descriptors(take_points(dataset, idxs, self._factors(dataset)))
        return bool((np.linalg.norm(x - self.x, axis=1) <= _TOLERANCE * np.linalg.norm(self.x, axis=1)).all())

    def find_in(self, dataset: Mapping[str, Any], among: IntArray | None = None) -> tuple[IntArray, IntArray]:
        """Find these geometries in a dataset.

        Parameters
        ----------
        dataset : mapping
            Labelled geometries of the same atoms.
        among : ndarray of int, optional
            Points to look at; all by default.

        Returns
        -------
        ndarray of int64, shape (n,)
            Points of the dataset that are one of the geometries, ascending.
        ndarray of int64, shape (n,)
            Number of that geometry.
        """
        from scipy.spatial import cKDTree

        if among is None:
            among = np.arange(len(dataset["R"]))
        factors = self._factors(dataset)
        # Projections on orthonormal directions differ at most as much as the descriptors themselves.
        rng = np.random.default_rng(0)
        n_directions = min(_N_PROJECTIONS, self.x.shape[1])
        directions = np.linalg.qr(rng.normal(size=(self.x.shape[1], n_directions)))[0]
        tree = cKDTree(self.x @ directions)
        points, numbers = [], []
        for first in range(0, len(among), _CHUNK):
            idxs = among[first : first + _CHUNK]
            x = self._descriptors(take_points(dataset, idxs, factors))
            radius = _TOLERANCE * np.linalg.norm(x, axis=1)
            candidates = tree.query_ball_point(x @ directions, radius)
            for i in np.flatnonzero([len(found) for found in candidates]):
                found = np.array(sorted(candidates[i]))
                distance = np.linalg.norm(self.x[found] - x[i], axis=1)
                if distance.min() <= radius[i]:
                    points.append(idxs[i])
                    numbers.append(found[distance.argmin()])
        return np.array(points, dtype=np.int64), np.array(numbers, dtype=np.int64)

    def _factors(self, dataset: Mapping[str, Any]) -> Conversion:
        return conversion(Units.of(dataset), self.units, "dataset", "model or task")

    def _descriptors(self, points: Points) -> Array:
        cell = None if points.lattice is None else Cell(points.lattice, self.image_rule)
        return from_R(points.R, cell)[0]


def _in_range(idxs: IntArray, dataset: Mapping[str, Any]) -> bool:
    return bool(np.all((idxs >= 0) & (idxs < len(dataset["R"]))))


def is_drawn_from(entries: Mapping[str, Any], which: str, dataset: Mapping[str, Any]) -> bool:
    """Return whether the training or validation points of a task or model were drawn from a dataset.

    The dataset is recognised by the fingerprint of its arrays or the one that it records. The latter may have been
    copied to other data: the points must be there, and training geometries at their places.

    Parameters
    ----------
    entries : mapping
        The task or model.
    which : {'train', 'valid'}
        Which points.
    dataset : mapping
        A dataset from `load_dataset`, or its entries.
    """
    md5 = entries[f"md5_{which}"]
    if not has_fingerprint(dataset, md5) or not _in_range(_idxs(entries, which), dataset):
        return False
    computed = "md5_aliases" in dataset and same_fingerprint(md5, dataset["md5"])
    if computed or not same_fingerprint(md5, entries["md5_train"]):
        return True
    known = KnownGeometries.of(entries)
    idxs = _idxs(entries, "train")
    return known is None or len(known.x) != len(idxs) or known.are_at(dataset, idxs)


def require_drawn_from(entries: Mapping[str, Any], which: str, dataset: Mapping[str, Any], source: str) -> None:
    """Raise UsageError unless the training or validation points of `source` were drawn from a dataset."""
    if is_drawn_from(entries, which, dataset):
        return
    what = {"train": "training", "valid": "validation"}[which]
    if has_fingerprint(dataset, entries[f"md5_{which}"]):
        raise UsageError(
            f"The {what} points of {source} are from another dataset: the one given records the same fingerprint, "
            f"{_md5(entries, which)}, but does not have the points at their places. It may be a part of that "
            "dataset, or in another order."
        )
    raise UsageError(
        f"The {what} points of {source} are from another dataset, with the fingerprint "
        f"{_md5(entries, which) or '(none)'}; that of the one given is {text(dataset.get('md5', '(none)'))}."
    )


def seen_points(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> IntArray:
    """Return the points of a dataset that a model was trained or validated on.

    Warns if they are found by their geometry alone.

    Parameters
    ----------
    model : mapping
        The model.
    dataset : mapping
        A dataset of the same atoms.

    Returns
    -------
    ndarray of int64
    """
    seen = [np.empty(0, dtype=np.int64)]
    if is_drawn_from(model, "valid", dataset):
        seen.append(_idxs(model, "valid"))
    if is_drawn_from(model, "train", dataset):
        seen.append(_idxs(model, "train"))
        return np.unique(np.concatenate(seen))
    known = KnownGeometries.of(model)
    if known is None:
        return np.unique(np.concatenate(seen))
    points, numbers = known.find_in(dataset)
    if len(points):
        message = f"{len(points):,} geometries of this dataset are training points of the model"
        if _md5(model, "train"):
            message += (
                ", though not at the places that it records"
                if has_fingerprint(dataset, model["md5_train"])
                else ", though its fingerprint is another one (a longer file of the same run?)"
            )
        message += ": they are left out"
        valid = _shifted_valid_points(model, dataset, points, numbers)
        if len(valid):
            message += f", and {len(valid):,} validation points, which lie as they did in the training dataset"
        _log.warning("%s.", message)
        seen += [points, valid]
    return np.unique(np.concatenate(seen))


def _shifted_valid_points(
    model: Mapping[str, Any], dataset: Mapping[str, Any], points: IntArray, numbers: IntArray
) -> IntArray:
    """Return where validation points are if all training points that can be there moved by one number of places."""
    idxs, n = _idxs(model, "train"), len(dataset["R"])
    none = np.empty(0, dtype=np.int64)
    if _md5(model, "train") != _md5(model, "valid") or numbers.max() >= len(idxs):
        return none
    # of geometries that are there twice, the places that fit
    shifts, count = np.unique(points - idxs[numbers], return_counts=True)
    shift = shifts[count.argmax()]
    expected = idxs + shift
    if count.max() < 2 or not np.isin(expected[(expected >= 0) & (expected < n)], points).all():
        return none
    moved = _idxs(model, "valid") + shift
    return moved[(moved >= 0) & (moved < n)]


def _idxs(entries: Mapping[str, Any], which: str) -> IntArray:
    return np.asarray(entries[f"idxs_{which}"], dtype=np.int64).ravel()


def _md5(entries: Mapping[str, Any], which: str) -> str:
    return text(entries[f"md5_{which}"])
