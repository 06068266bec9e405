"""Periodic cells: lattice vectors, and the rule that picks the image of a neighbour.

Two rules exist. ``'minimum'`` takes the nearest image, in any cell. ``'rounding'`` is sGDML's: d - L round(L^-1 d); it
is the nearest image in orthogonal cells and in some others (see `Cell.rounding_is_minimal`), but not in skewed ones.
A model must be used with the rule that it was trained with, so tasks and models record it as ``image_rule``. Those
without the entry are sgdml's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError, UsageError
from .native import _core
from .types import Array

_VACUUM = (
    "A direction without images, as that of a vacuum, needs a vector of its own, a few times as long as what it holds."
)

IMAGE_RULES = ("minimum", "rounding")


class Cell:
    """One periodic cell for all geometries, or one for each.

    Parameters
    ----------
    lattice : array_like, shape (3, 3) or (n_geo, 3, 3)
        Lattice vectors as columns, in the unit of the positions.
    image_rule : {'minimum', 'rounding'}
        Fold differences of positions to the nearest image, or by sGDML's rule.

    Attributes
    ----------
    lattice : ndarray, shape (3, 3) or (n_geo, 3, 3)
    image_rule : str

    Raises
    ------
    DataError
        If the shape is another, or lattice vectors are linearly dependent or not finite.
    UsageError
        If there is no such rule.
    """

    def __init__(self, lattice: npt.ArrayLike, image_rule: str = "minimum") -> None:
        self.lattice = check_lattice(lattice)
        self.image_rule = check_image_rule(image_rule)
        try:
            self.native = _core.Cells(self.lattice.reshape(-1, 3, 3), image_rule == "minimum")
        except ValueError as error:  # too large, too small, or too far apart for double precision
            raise DataError(f"This is no cell that can be computed with: {error}. {_VACUUM}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Cell, (self.lattice, self.image_rule)

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Cell | None:
        """Return the cell of a task or model with its image rule, or None for a molecule."""
        if entries.get("lattice") is None:
            return None
        return cls(entries["lattice"], image_rule_of(entries))

    @property
    def varies(self) -> bool:
        """Whether every geometry has a cell of its own."""
        return self.lattice.ndim == 3

    def part(self, geometries: slice | npt.NDArray[np.integer]) -> Cell:
        """Return the cell of some of the geometries."""
        return Cell(self.lattice[geometries], self.image_rule) if self.varies else self

    def require_for(self, n_geo: int) -> None:
        """Raise DataError unless this is one cell, or one for each of `n_geo` geometries."""
        if self.varies and len(self.lattice) != n_geo:
            raise DataError(
                f"There are {len(self.lattice)} lattices for {n_geo} geometries. Give one lattice, shape (3, 3), or "
                "one for each geometry, shape (n_geo, 3, 3)."
            )

    @property
    def rounding_is_minimal(self) -> bool:
        """Whether sGDML's rule gives the nearest image of every difference, so that both rules agree."""
        # Some lattice vector T makes a difference L f, |f_i| <= 1/2, shorter iff sum_i |l_i . T| > |T|^2 (src/cell.c);
        # it is enough to look at those with coefficients -1, 0, 1 in a short basis, which hold all faces of the
        # Voronoi cell.
        coefficients = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)
        bases = _core.Cells(self.lattice.reshape(-1, 3, 3), True).tables()[0]
        T = np.einsum("nij,kj->nki", bases, coefficients)
        reach = np.abs(np.einsum("nij,nki->nkj", self.lattice.reshape(-1, 3, 3), T)).sum(axis=2)
        squared = np.einsum("nki,nki->nk", T, T)
        return bool((reach <= squared * (1 + 1e-9)).all())


def check_lattice(lattice: npt.ArrayLike) -> Array:
    """Return lattice vectors as an array (3, 3) or (n, 3, 3), or raise DataError when they span no cell."""
    matrices = np.ascontiguousarray(lattice, dtype=np.float64)
    if matrices.shape[-2:] != (3, 3) or matrices.ndim > 3 or not np.isfinite(matrices).all():
        raise DataError(
            "The lattice must be a finite 3 x 3 matrix of column vectors, or one such matrix for each geometry; found "
            f"shape {matrices.shape}: {np.array2string(matrices, threshold=9)}."
        )
    with np.errstate(all="ignore"):  # zero, or beyond the range of numbers: what comes out is not above any bound
        scaled = matrices / np.abs(matrices).max(axis=(-2, -1), keepdims=True)
        edges = np.linalg.norm(scaled, axis=-2, keepdims=True)
        filled = np.abs(np.linalg.det(scaled / edges)).reshape(-1)  # of a box with the same edges
    flat = np.flatnonzero(~(filled > 1e-10))
    if len(flat):
        which = f" of geometry {flat[0]}" if matrices.ndim == 3 else ""
        raise DataError(
            f"The lattice vectors{which} are linearly dependent, or nearly (the cell has {filled[flat[0]]:.2g} of the "
            f"volume of a box with the same edges): three independent vectors are needed. {_VACUUM}"
        )
    return matrices


def check_image_rule(rule: str) -> str:
    """Return the rule, or raise UsageError when there is none of that name."""
    if rule not in IMAGE_RULES:
        raise UsageError(f"There is no image rule {rule!r}: choose one of {', '.join(IMAGE_RULES)}.")
    return rule


def image_rule_of(entries: Mapping[str, Any]) -> str:
    """Return the image rule of a task or model; sGDML's where none is recorded.

    Raises
    ------
    DataError
        If the rule recorded is unknown.
    """
    rule = str(entries.get("image_rule", "rounding"))
    if rule not in IMAGE_RULES:
        raise DataError(
            f"The image rule {rule!r} is unknown to this version of fastgdml ({', '.join(IMAGE_RULES)} are known). "
            "A newer version may have written this file."
        )
    return rule
