"""Signs that training data or parameters are wrong: what it looks like, the evidence, and what to do.

Each check returns a list of findings, empty if all is well. Nothing is logged here: callers report. Checks of
geometries are in `fastgdml.frames`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .descriptor import pair_permutation
from .elements import SYMBOLS
from .types import Array, IntArray

# Descriptors that differ by less than this fraction belong to the same geometry.
_SAME_GEOMETRY = 1e-9
# Geometries whose width is less than this fraction of their length are nearly linear.
_LINEAR = 0.02
# Part of the forces that the solution of the training equations may leave unexplained.
_ROUNDING = 1e-4
# Energy labels that follow the integrated forces this well belong to them,
_CORRELATED = 0.95
# and with a slope this near to 1 they have the same units.
_SLOPE = 0.1
# Differences between neighbours are smaller, and errors of the model are a larger part of them.
_CORRELATED_LOCALLY, _SLOPE_LOCALLY = 0.9, 0.15
# A correlation below this is one of gradients; that of unrelated numbers is near 0.
_OPPOSITE = -0.9
# Pairs of nearest neighbours are looked for among so many points.
_MAX_LOCAL = 1000
# Share of points that may be outliers of the energy; more are no outliers.
_FEW = 0.05
# Share of the variance that two separate values leave each other; a split uniform distribution has 0.75.
_TWO_VALUES = 0.9
# Net force and torque of the labels, relative to their size, that electronic structure codes do not leave. In large
# molecules torques of unrelated forces are small, too: they nearly cancel.
_NET, _TORQUE = 0.03, 0.01
# The same of a single geometry, and what that of others is multiplied with.
_NET_OF_FEW, _MORE_THAN_USUAL = 0.05, 30
# Forces below this fraction of their root mean square are zero.
_ZERO_FORCE = 1e-9
# Ratios of common units, to name them: of energies, and what forces in Bohr make of the energy.
_RATIOS = {
    "eV and kcal/mol": 23.0605,
    "eV and kJ/mol": 96.4853,
    "Hartree and eV": 27.2114,
    "Hartree and kcal/mol": 627.509,
    "Hartree and kJ/mol": 2625.50,
    "kcal/mol and kJ/mol": 4.184,
    "eV and meV": 1000.0,
    "Hartree and Rydberg": 2.0,
    "energies per Angstrom and per Bohr": 1.88973,
    "Hartree/Bohr and eV/Angstrom": 51.4221,
    "Hartree/Bohr and kcal/mol/Angstrom": 1185.82,
    "energies per nm and per Angstrom": 10.0,
}


@dataclass(frozen=True)
class Finding:
    """Something that is probably wrong.

    Attributes
    ----------
    cause, evidence, remedy : str
        What it seems to be, what was seen, and what to do: one or more sentences each, or nothing.
    level : {'note', 'warning', 'error'}
        Harmless but good to know; probably wrong; cannot be worked with.
    frames, atoms : tuple of int
        Numbers of the geometries in their dataset, and of the atoms, that it is about; from 0.
    """

    cause: str
    evidence: str
    remedy: str
    level: str = "warning"
    frames: tuple[int, ...] = ()
    atoms: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " ".join(part for part in (self.cause, self.evidence, self.remedy) if part)


def numbers_of(values: npt.ArrayLike, at_most: int = 6) -> str:
    """Return numbers as text, runs as first-last, at most so many entries: 0-31, 40 and 7 more."""
    numbers = np.unique(np.asarray(values, dtype=np.int64))
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    parts: list[tuple[str, int]] = []
    for run in runs:
        if len(run) > 2:
            parts.append((f"{run[0]}-{run[-1]}", len(run)))
        else:
            parts += [(str(number), 1) for number in run]
    shown = ", ".join(text for text, _ in parts[:at_most])
    left = sum(count for _, count in parts[at_most:])
    return f"{shown} and {left} more" if left else shown


def atoms_text(atoms: npt.ArrayLike, z: npt.ArrayLike, noun: str = "atom") -> str:
    """Return numbers and elements of atoms as text: atoms 0-31 (Cu)."""
    atoms, z = np.atleast_1d(np.asarray(atoms, dtype=np.int64)), np.asarray(z)
    elements = ", ".join(SYMBOLS[number] for number in np.unique(z[atoms]))
    return f"{noun}{'s' if len(atoms) > 1 else ''} {numbers_of(atoms)} ({elements})"


def as_numbers(values: npt.ArrayLike) -> tuple[int, ...]:
    """Return an array of indices as the entries of a finding."""
    return tuple(int(value) for value in np.asarray(values).ravel())


def check_constant_energies(E: npt.ArrayLike, E_scale: float | None = None) -> list[Finding]:
    """Look for energy labels that are all equal, a placeholder.

    Parameters
    ----------
    E : array_like, shape (M,)
        Energy labels.
    E_scale : float, optional
        What changes of the energy are to be expected; those of less than a billionth of it, or of the energies, are
        rounding errors.
    """
    E = np.asarray(E, dtype=np.float64).ravel()
    if len(E) < 2:
        return []
    spread = float(np.ptp(E))
    if spread > max(1e-12 * float(np.abs(E).max()), 1e-9 * (E_scale or 0.0)):
        return []
    return [
        Finding(
            "The energy labels are all equal.",
            f"E is {E[0]:.10g} for all {len(E)} training points, while the forces are not zero: a placeholder?",
            "Give the energies, or train on forces alone (--no_E, use_E=False); energies that a model predicts from "
            "these are right up to a constant only.",
        )
    ]


def check_energies(
    E_ref: Array,
    E_pred: Array,
    R_desc: Array | None = None,
    idxs: Sequence[int] | IntArray | None = None,
    labels_at_fault: bool = False,
) -> list[Finding]:
    """Compare energy labels with the energies that a model integrates from the force labels.

    A straight line is laid through them, as sGDML does. It falls if the labels are gradients instead of forces; its
    slope is not 1 if the units differ; there is no line if the labels do not belong together. Where the training points
    fall into regions that the forces do not connect (conformers), each has an integration constant of its own, which
    spoils the line as well. Differences between nearest neighbours do not see those constants: so they tell regions
    from wrong labels.

    Parameters
    ----------
    E_ref : ndarray, shape (M,)
        Energy labels of the training points.
    E_pred : ndarray, shape (M,)
        Predicted energies, up to a constant.
    R_desc : ndarray, shape (M, D), optional
        Descriptors of the training points, to tell separate regions from wrong labels.
    idxs : sequence of int, optional
        Numbers of the geometries in their dataset.
    labels_at_fault : bool
        Whether the force labels are known to be incomplete (`check_forces`): that explains what is inconsistent.
    """
    if len(E_ref) < 2 or np.ptp(E_pred) == 0:
        return []
    constant = check_constant_energies(E_ref, float(np.ptp(E_pred)))
    if constant:
        return constant
    slope, correlation = _line(E_pred, E_ref)
    numbers = np.arange(len(E_ref)) if idxs is None else np.asarray(idxs)
    evidence = (
        f"Over the {len(E_ref)} training points the energy labels follow the integrated forces with slope {slope:.2g} "
        f"and correlation {correlation:.2f}; 1 is expected of both."
    )
    if correlation >= _CORRELATED and abs(slope - 1) <= _SLOPE:
        two = _two_regions(E_ref - E_pred, E_ref, R_desc)
        return [] if two is None else [_unconnected(E_ref - E_pred, two, numbers, "")]
    if labels_at_fault:
        return [
            Finding(
                "Energy and force labels are inconsistent.",
                evidence,
                "That may follow from the net forces of the labels (see the warning about these): mend them first.",
            )
        ]
    local = _local_line(E_ref, E_pred, R_desc)
    locally_right = local is not None and local[1] >= _CORRELATED_LOCALLY and abs(local[0] - 1) <= _SLOPE_LOCALLY
    two = _two_regions(E_ref - E_pred, E_ref, R_desc) if locally_right else None
    if two is not None:
        return [_unconnected(E_ref - E_pred, two, numbers, evidence, local)]
    outliers = _outliers(E_ref, E_pred)
    if outliers is not None:
        return [
            Finding(
                "Energies of some geometries do not belong there.",
                f"{evidence} Without {len(outliers)} of them both are near 1: geometries "
                f"{numbers_of(numbers[outliers])} of the dataset, off by up to "
                f"{_largest_deviation(E_ref - E_pred, outliers):.3g}.",
                "Look at these calculations (converged? the same method, charge and spin?), and mend or remove them.",
                frames=as_numbers(np.sort(numbers[outliers])),
            )
        ]
    if locally_right:
        return [_unconnected(E_ref - E_pred, None, numbers, evidence, local)]
    best = max([(slope, correlation), *([local] if local is not None else [])], key=lambda line: abs(line[1]))
    findings = []
    few = "With too few training points to connect the geometries, this may also be harmless."
    if min(correlation, best[1]) <= _OPPOSITE:
        findings.append(
            Finding(
                "The force labels seem to have the wrong sign (gradients instead of forces).",
                evidence,
                f"Check the sign of F: forces are the negative gradient of E. {few}",
            )
        )
    if abs(best[1]) < _CORRELATED:
        if not findings:
            unrelated = abs(correlation) < 0.5 and len(E_ref) >= 20
            findings.append(
                Finding(
                    "Energy and force labels seem inconsistent.",
                    evidence,
                    ("The energies may be in another order than the geometries (shuffled). " if unrelated else "")
                    + "Check that energies belong to their geometries, that energies and forces come from the same "
                    "method and are converged, and that no geometry is duplicated or broken. If the geometries are "
                    f"conformers with nothing between them, constrain energies (--E_cstr, use_E_cstr=True). {few}",
                )
            )
    elif abs(abs(best[0]) - 1) > (3 * _SLOPE if findings else _SLOPE):
        factor = unit_factor(abs(best[0]))
        findings.append(
            Finding(
                "Energies and forces seem to be in different units.",
                evidence + (f" That is the ratio of {factor}." if factor else ""),
                "Check the units of E and F: forces must be in the unit of E per unit of R. Energies predicted by this "
                f"model will be off. {few}",
            )
        )
    return findings


def unit_factor(ratio: float) -> str:
    """Return the names of two units with this ratio or its inverse, to 3 %, or nothing."""
    for names, size in _RATIOS.items():
        if abs(abs(np.log(ratio)) - np.log(size)) < 0.03:
            return names
    return ""


def _line(E_pred: Array, E_ref: Array) -> tuple[float, float]:
    """Return slope and correlation of a straight line."""
    x, y = E_pred - E_pred.mean(), E_ref - E_ref.mean()
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    return (xy / xx, xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else (0.0, 0.0)


def nearest_descriptors(R_desc: Array) -> IntArray:
    """Return for each descriptor which other one is nearest."""
    squares = np.einsum("mk,mk->m", R_desc, R_desc)
    distance = squares[:, None] + squares - 2 * R_desc @ R_desc.T
    np.fill_diagonal(distance, np.inf)
    return distance.argmin(axis=1)


def _subset(n_points: int) -> slice:
    return slice(None, None, -(-n_points // _MAX_LOCAL))


def _local_line(E_ref: Array, E_pred: Array, R_desc: Array | None) -> tuple[float, float] | None:
    """Return slope and correlation of differences between nearest neighbours."""
    if R_desc is None or len(R_desc) < 8:
        return None
    some = _subset(len(R_desc))
    j = nearest_descriptors(R_desc[some])
    ref, pred = E_ref[some], E_pred[some]
    # through the origin: both differences change sign when the two points are exchanged
    x, y = pred - pred[j], ref - ref[j]
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    return (xy / xx, xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else None


def _two_regions(deviation: Array, E_ref: Array, R_desc: Array | None) -> npt.NDArray[np.bool_] | None:
    """Return which points are in the upper of two regions with different offsets, or None if there are no two.

    The deviations are split where that explains most of their variance (Otsu, 1979); regions are real if nearest
    neighbours belong to the same.
    """
    if R_desc is None or len(deviation) < 8 or deviation.std() < 0.1 * E_ref.std():
        return None
    ordered = np.sort(deviation - deviation.mean())
    below = np.cumsum(ordered)[:-1]
    count = np.arange(1, len(ordered))
    between = below**2 * (1 / count + 1 / (len(ordered) - count))
    best = int(between.argmax())
    upper = deviation - deviation.mean() > 0.5 * (ordered[best] + ordered[best + 1])
    if between[best] < _TWO_VALUES * float(ordered @ ordered) or min(upper.sum(), (~upper).sum()) < 3:
        return None
    some = _subset(len(R_desc))
    side = upper[some]
    same = side == side[nearest_descriptors(R_desc[some])]
    return upper if all(of.any() and same[of].mean() > 0.8 for of in (side, ~side)) else None


def _unconnected(
    deviation: Array,
    upper: npt.NDArray[np.bool_] | None,
    numbers: IntArray,
    evidence: str,
    local: tuple[float, float] | None = None,
) -> Finding:
    if local is not None:
        evidence += f" Between nearest neighbours they do so with slope {local[0]:.2g} and correlation {local[1]:.2f}."
    frames: tuple[int, ...] = ()
    if upper is not None:
        offset = deviation[upper].mean() - deviation[~upper].mean()
        ends = int(np.flatnonzero(~upper)[0]), int(np.flatnonzero(upper)[0])
        frames = as_numbers(numbers[list(ends)])
        evidence += (
            f" Two groups of {np.count_nonzero(~upper)} and {np.count_nonzero(upper)} points, with geometries "
            f"{frames[0]} and {frames[1]} of the dataset for instance, have offsets that differ by {offset:.3g}."
        )
    return Finding(
        "The training points fall into regions that the forces do not connect, such as conformers.",
        evidence.strip(),
        "Constrain energies (--E_cstr, use_E_cstr=True), which fixes the energy of each region, or add geometries "
        "between them. Forces are not affected.",
        frames=frames,
    )


def _residual(E_ref: Array, E_pred: Array) -> Array:
    deviation = E_ref - E_pred
    return np.abs(deviation - np.median(deviation))


def _outliers(E_ref: Array, E_pred: Array) -> IntArray | None:
    """Return the few points without which the labels follow the predictions, or None if there are none."""
    if len(E_ref) < 10:
        return None
    residual = _residual(E_ref, E_pred)
    usual = float(np.median(residual))
    worst = np.flatnonzero(residual > max(10 * usual, 1e-12 * float(np.abs(E_ref).max())))
    if not 0 < len(worst) <= max(1, _FEW * len(E_ref)):
        return None
    rest = np.setdiff1d(np.arange(len(E_ref)), worst)
    slope, correlation = _line(E_pred[rest], E_ref[rest])
    return worst if correlation >= _CORRELATED and abs(slope - 1) <= _SLOPE else None


def _largest_deviation(deviation: Array, points: IntArray) -> float:
    return float(np.abs(deviation[points] - np.median(deviation)).max())


def check_forces(
    z: npt.ArrayLike,
    R: Array,
    F: Array,
    periodic: bool = False,
    idxs: Sequence[int] | IntArray | None = None,
) -> list[Finding]:
    """Look for force labels that no model can have: with a net force, or for molecules a net torque.

    Energies that do not change when all atoms are moved or turned have neither. Labels have them when forces of some
    atoms were set to zero (constraints), or when forces belong to other geometries or to turned ones.

    Parameters
    ----------
    z : array_like of int, shape (N,)
        Atomic numbers.
    R, F : ndarray, shape (M, N, 3)
        Geometries and forces.
    periodic : bool
        Only translations leave the energy as it is.
    idxs : sequence of int, optional
        Numbers of the geometries in their dataset.
    """
    F, R = np.asarray(F, dtype=np.float64), np.asarray(R, dtype=np.float64)
    n_geo, n_atoms = F.shape[:2]
    numbers = np.arange(n_geo) if idxs is None else np.asarray(idxs)
    size = np.sqrt(np.einsum("mai,mai->m", F, F))
    if not size.any():
        return []
    # a geometry near a minimum has small forces, and noise is all that there is of them
    usual = float(np.median(size[size > 0]))
    large = size >= usual
    size = np.maximum(size, usual)
    net = F.sum(axis=1)
    net_part = np.linalg.norm(net, axis=1) / size
    centred = R - R.mean(axis=1, keepdims=True)
    torque_part = np.zeros(n_geo)
    if not periodic and n_atoms > 2:
        extent = np.sqrt(np.einsum("mai,mai->m", centred, centred))
        torque_part = np.linalg.norm(np.cross(centred, F).sum(axis=1), axis=1) / (size * extent)

    scale = np.sqrt(np.mean(F**2))
    component = np.abs(F) <= _ZERO_FORCE * scale
    whole = component.all(axis=2) & ~component.all(axis=(1, 2))[:, None]
    zeroed = np.flatnonzero(whole.any(axis=0))
    affected = whole.any(axis=1)
    directions = ""
    if not len(zeroed):
        fixed = component.all(axis=0)
        # a component that is zero for all atoms is that of a planar molecule
        fixed &= ~component.all(axis=(0, 1))
        zeroed = np.flatnonzero(fixed.any(axis=1))
        affected = np.full(n_geo, len(zeroed) > 0)
        if len(zeroed):
            directions = f" along {', '.join('xyz'[i] for i in np.flatnonzero(fixed.any(axis=0)))}"
    typical = float(np.median(net_part[large])), float(np.median(torque_part[large]))
    if affected.any():
        part = float(np.median(net_part[affected])), float(np.median(torque_part[affected]))
        if max(part) > _NET and max(part) > 3 * _of_others(net_part, torque_part, affected):
            where = (
                f"all {n_geo} geometries"
                if affected.all()
                else (
                    f"{np.count_nonzero(affected)} of {n_geo} geometries ({numbers_of(numbers[affected])} of the "
                    "dataset)"
                )
            )
            left = np.sqrt(np.mean(net[affected] ** 2)) / n_atoms
            return [
                Finding(
                    "Forces of frozen atoms were set to zero, as constraints do.",
                    f"They are zero{directions} on {atoms_text(zeroed, z)} in {where}, and the net "
                    f"{'force' if part[0] > _NET else 'torque'} of the labels is {max(part):.0%} of their size; no "
                    f"model has one (force errors of {left:.2g} or more remain).",
                    "Atoms may be frozen, but give the forces on them before constraints are applied (in ASE, "
                    "get_forces(apply_constraint=False)). Else expect larger errors, also of energies.",
                    frames=() if affected.all() else as_numbers(numbers[affected]),
                    atoms=as_numbers(zeroed),
                )
            ]
    if typical[0] > _NET:
        return [
            Finding(
                "The force labels have a net force, which no model can have.",
                f"It is {typical[0]:.0%} of the size of the forces in the median geometry, and larger than {_NET:.0%} "
                f"in {np.count_nonzero(net_part > _NET)} of {n_geo}.",
                "Look for atoms that are missing, forces of an external field or of other atoms, constraints, or "
                "forces that are not converged.",
            )
        ]
    if typical[1] > _TORQUE:
        return [
            Finding(
                "The force labels do not fit the geometries: they have a net torque, which no model can have.",
                f"It is {typical[1]:.0%} of the size of the forces in the median geometry, and larger than "
                f"{_TORQUE:.0%} in {np.count_nonzero(torque_part > _TORQUE)} of {n_geo}; the net force is "
                f"{typical[0]:.1%}.",
                "Forces may be in another order than geometries, or in another orientation (a program's standard "
                "orientation); or the molecule is periodic and the lattice is missing.",
            )
        ]
    odd = np.flatnonzero(np.maximum(net_part, torque_part) > max(_NET_OF_FEW, _MORE_THAN_USUAL * max(typical)))
    if 0 < len(odd) <= max(1, _FEW * n_geo):
        return [
            Finding(
                "The forces of some geometries do not belong there.",
                f"In geometries {numbers_of(numbers[odd])} of the dataset they have a net force or torque of up to "
                f"{np.maximum(net_part, torque_part)[odd].max():.0%} of their size; usual is {max(typical):.1%}.",
                "Look at these calculations, and mend or remove them.",
                frames=as_numbers(numbers[odd]),
            )
        ]
    return []


def _of_others(net_part: Array, torque_part: Array, affected: npt.NDArray[np.bool_]) -> float:
    """Return the net force or torque that is usual in geometries in which no force was set to zero."""
    if affected.all():
        return 0.0
    return float(max(np.median(net_part[~affected]), np.median(torque_part[~affected])))


def check_energy_deviations(mean: float, mae: float, rmse: float, n_points: int) -> list[Finding]:
    """Look for energies of a test that differ from the predicted ones by a constant, or by one of two.

    Parameters
    ----------
    mean, mae, rmse : float
        Mean, mean absolute and root mean square of predicted minus true energies.
    n_points : int
        Number of geometries.
    """
    if n_points < 5 or not rmse > 0:
        return []
    spread = float(np.sqrt(max((rmse - abs(mean)) * (rmse + abs(mean)), 0.0)))
    if abs(mean) > 3 * spread:
        return [
            Finding(
                "The energies differ by a constant.",
                f"Predicted minus true is {mean:+.6g} on average over {n_points} geometries (MAE {mae:.4g}, RMSE "
                f"{rmse:.4g}); without that the RMSE is {spread:.2g}.",
                f"The zero of energy of the dataset seems to be another one (program, method, reference atoms): add "
                f"{mean:.6g} to its energies. Forces are not affected.",
            )
        ]
    if n_points >= 20 and mae > 0.97 * rmse and abs(mean) < 0.5 * mae:
        return [
            Finding(
                "The energies are off by one of two constants.",
                f"Over {n_points} geometries MAE ({mae:.4g}) and RMSE ({rmse:.4g}) agree, the mean is {mean:+.2g}.",
                "The model seems to know regions (conformers) that its training forces do not connect: train with "
                "energy constraints (--E_cstr, use_E_cstr=True).",
            )
        ]
    return []


def sums_in_common(total: Array) -> IntArray:
    """Return which sums of descriptors, shape (M,), agree with another one: only those can be of the same geometry."""
    order = np.argsort(total, kind="stable")
    equal = np.diff(total[order]) <= _SAME_GEOMETRY * np.abs(total[order][1:])
    return np.sort(order[np.concatenate([equal, [False]]) | np.concatenate([[False], equal])])


def find_duplicates(R_desc: Array, perms: npt.ArrayLike | None = None) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, of geometries that are the same but for rigid motions and permutations.

    Parameters
    ----------
    R_desc : ndarray, shape (M, D)
        Descriptors.
    perms : array_like of int, shape (P, N), optional
        Permutations of like atoms.
    """
    # The sum is the same for duplicates, permuted or not: compare only geometries whose sums agree.
    total = R_desc.sum(axis=1)
    order = np.argsort(total, kind="stable")
    found = []
    images: list[IntArray] | None = None
    first = 0
    for here in range(1, len(order)):
        i, j = order[first], order[here]
        if total[j] - total[i] > _SAME_GEOMETRY * abs(total[j]):
            first = here
            continue
        tolerance = _SAME_GEOMETRY * np.abs(R_desc[i]).max()
        same = np.abs(R_desc[i] - R_desc[j]).max() <= tolerance
        if not same and perms is not None:
            if images is None:
                images = [pair_permutation(p) for p in np.atleast_2d(np.asarray(perms))]
            same = any(np.abs(R_desc[i] - R_desc[j][image]).max() <= tolerance for image in images)
        if same:
            found.append((int(min(i, j)), int(max(i, j))))
    return sorted(found)


def check_duplicates(
    R_desc: Array,
    F: Array | None = None,
    perms: npt.ArrayLike | None = None,
    idxs: Sequence[int] | IntArray | None = None,
    n_points: int | None = None,
    points: str = "training points",
) -> list[Finding]:
    """Look for training points with the same geometry. They make the kernel matrix singular.

    Parameters
    ----------
    R_desc : ndarray, shape (M, D)
        Descriptors.
    F : ndarray, shape (M, N, 3), optional
        Force labels, to say whether those of duplicates differ.
    perms : array_like of int, shape (P, N), optional
        Permutations of like atoms.
    idxs : sequence of int, optional
        Numbers of the geometries in their dataset.
    n_points, points : int and str, optional
        How many there are, if these are but some of them, and what to call them.
    """
    pairs = find_duplicates(R_desc, perms)
    if not pairs:
        return []
    numbers = range(len(R_desc)) if idxs is None else idxs
    i, j = pairs[0]
    evidence = (
        f"{len({k for _, k in pairs})} of {n_points or len(R_desc)} {points} repeat the geometry of others, up to "
        f"rigid motions and symmetry: {numbers[i]} and {numbers[j]} of the dataset, for one."
    )
    if F is not None:
        sizes = [(np.linalg.norm(F[a]), np.linalg.norm(F[b])) for a, b in pairs]
        differ = sum(abs(a - b) > 1e-6 * max(a, b) for a, b in sizes)
        evidence += f" In {differ} of {len(pairs)} cases the force labels differ." if differ else " Their forces agree."
    return [
        Finding(
            "The dataset contains duplicate geometries.",
            evidence,
            "Remove duplicates: they add nothing but make the training equations ill-conditioned, and labels that "
            "differ cannot both be met.",
            frames=tuple(sorted({int(numbers[k]) for _, k in pairs})),
        )
    ]


def check_linearity(R: Array) -> list[Finding]:
    """Look for molecules that are nearly linear.

    When all atoms lie on a line, moving one sideways changes no distance, to first order: the descriptor tells little
    about bending.

    Parameters
    ----------
    R : ndarray, shape (M, N, 3)
        Geometries of a molecule (not periodic).
    """
    if R.shape[1] < 3:
        return []
    extent = np.linalg.svd(R - R.mean(axis=1, keepdims=True), compute_uv=False)
    ratio = extent[:, 1] / extent[:, 0]
    n_linear = int(np.count_nonzero(ratio < _LINEAR))
    if n_linear == 0:
        return []
    return [
        Finding(
            "The molecule is nearly linear.",
            f"In {n_linear} of {len(R)} training geometries the atoms lie within {_LINEAR:.0%} of a straight line "
            f"(width over length, {ratio.min():.1e} in geometry {int(ratio.argmin())}).",
            "Interatomic distances hardly change when such a molecule bends, so that forces across the line are learnt "
            "badly: check bending motions of the model, and train on bent geometries, too.",
        )
    ]


def check_solution(
    R: Array, F: Array, F_pred: Array, alphas_F: Array, std: float, lam: float, periodic: bool = False
) -> list[Finding]:
    """Look for rounding errors in the solution of the training equations: lambda is too small.

    The forces that a model predicts for its training points differ from the labels by lam alpha std, and by the net
    force and torque of the labels, which no model can have. What is left is rounding error.

    Parameters
    ----------
    R, F, F_pred : ndarray, shape (M, N, 3)
        Training geometries, their labels and predictions.
    alphas_F : ndarray, shape (3 N M,)
        Coefficients.
    std : float
        Scale of the labels.
    lam : float
        Regularisation.
    periodic : bool
        Only translations are rigid motions.
    """
    shape = (len(R), -1)
    rest = F.reshape(shape) - F_pred.reshape(shape) + lam * std * alphas_F.reshape(shape)
    motions = np.broadcast_to(np.tile(np.eye(3), (R.shape[1], 1)), (len(R), 3 * R.shape[1], 3))
    if not periodic:
        centred = R - R.mean(axis=1, keepdims=True)
        rotations = np.stack([np.cross(axis, centred).reshape(shape) for axis in np.eye(3)], axis=2)
        motions = np.concatenate([motions, rotations], axis=2)
    rigid = np.linalg.pinv(motions, rcond=1e-6) @ rest[:, :, None]
    rest = rest - (motions @ rigid)[:, :, 0]
    part = float(np.linalg.norm(rest) / np.linalg.norm(F))
    if part <= _ROUNDING:
        return []
    return [
        Finding(
            "Lambda is too small for the accuracy of double precision.",
            f"With lambda = {lam:.0e} the training equations are solved with an error of {part:.1e} of the forces, by "
            "rounding.",
            f"Use a larger lambda (--lam, for example {max(1e3 * lam, 1e-13):.0e}) or a smaller sigma.",
        )
    ]


def explain_singular(R_desc: Array, lam: float) -> Finding:
    """Return why a kernel matrix of descriptors (M, D) is not positive definite with regularisation `lam`."""
    cause = f"The kernel matrix is not positive definite with lambda = {lam:.0e}."
    duplicates = find_duplicates(R_desc)
    if duplicates:
        return Finding(
            cause,
            "Training points {} and {} have the same geometry.".format(*duplicates[0]),
            "Remove duplicates from the dataset, or use a larger lambda.",
        )
    return Finding(
        cause,
        "Lambda is too small: training points may be nearly identical, or sigma too large for them.",
        "Try a smaller sigma or a larger lambda.",
    )
