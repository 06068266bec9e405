"""Stands in for sgdml.utils.perm."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgdml import permutations
from fastgdml.cell import Cell
from fastgdml.permutations import salvage_subgroup
from fastgdml.progress import Step
from fastgdml.types import Array, IntArray

__all__ = ["complete_sym_group", "find_perms", "inv_perm", "salvage_subgroup", "to_cycles"]


def find_perms(
    R: Array,
    z: IntArray,
    lat_and_inv: tuple[Array, Array] | None = None,
    callback: Callable[..., Any] | None = None,
    max_processes: int | None = None,
) -> IntArray:
    """Find the permutational symmetries of geometries (M, N, 3); see `fastgdml.permutations.find_perms`."""
    step = Step(callback, "Finding permutational symmetries")
    cell = None if lat_and_inv is None else Cell(lat_and_inv[0], "rounding")
    perms = permutations.find_perms(R, z, cell, n_threads=max_processes, progress=step)
    step.done(f"found {len(perms)} symmetries")
    return perms


def complete_sym_group(
    perms: IntArray,
    n_perms_max: int | None = None,
    disp_str: str = "Permutation group completion",
    callback: Callable[..., Any] | None = None,
) -> IntArray | None:
    """Complete permutations (P, N) to a group, or return None at `n_perms_max` members."""
    step = Step(callback, disp_str)
    group = permutations.complete_group(np.asarray(perms), n_perms_max)
    step.done("found no group small enough" if group is None else f"found {len(group)} symmetries")
    return group


def to_cycles(perm: Sequence[int]) -> list[list[int]]:
    """Return the disjoint cycles of a permutation, each beginning at the image of its smallest element."""
    cycles = []
    left = dict(enumerate(perm))
    while left:
        cycle = [left.pop(next(iter(left)))]
        while cycle[-1] in left:
            cycle.append(left.pop(cycle[-1]))
        cycles.append(cycle)
    return cycles


def inv_perm(perm: IntArray) -> IntArray:
    """Return the inverse of a permutation."""
    return np.argsort(perm)
