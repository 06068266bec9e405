"""Signs that training data or parameters are wrong: what it looks like, the evidence, and what to do.

Each check returns a list of findings, empty if all is well. Nothing is logged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .descriptor import pair_permutation
from .types import Array, IntArray, Integers

# Descriptors that differ by less than this fraction belong to the same geometry.
_SAME_GEOMETRY = 1e-9
# Geometries whose width is less than this fraction of their length are nearly linear.
_LINEAR = 0.02
# Part of the forces that the solution of the training equations may leave unexplained.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Finding:
    """Something that is probably wrong.

    Attributes
    ----------
    cause, evidence, remedy : str
        What it seems to be, what was seen, and what to do: one or more sentences each.
    """

    cause: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.cause} {self.evidence} {self.remedy}"


def check_energies(E_ref: Array, E_pred: Array) -> list[Finding]:
    """Compare energy labels with the energies that a model integrates from the force labels.

    A straight line is laid through them, as sGDML does. It falls if the labels are gradients instead of forces; its
    slope is not 1 if the units differ; there is no line if the labels do not belong together.

    Parameters
    ----------
    E_ref : ndarray, shape (M,)
        Energy labels of the training points.
    E_pred : ndarray, shape (M,)
        Predicted energies, up to a constant.
    """
    if len(E_ref) < 2 or np.ptp(E_ref) == 0 or np.ptp(E_pred) == 0:
        return []
    slope = np.polyfit(E_pred, E_ref, 1)[0]
    correlation = np.corrcoef(E_ref, E_pred)[0, 1]
    evidence = (
        f"Over the {len(E_ref)} training points the energy labels follow the integrated forces with slope {slope:.2g} "
        f"and correlation {correlation:.2f}; 1 is expected of both."
    )
    few = "With too few training points to connect the geometries, this may also be harmless."
    findings = []
    if slope < 0:
        findings.append(
            Finding(
                "The force labels seem to have the wrong sign (gradients instead of forces).",
                evidence,
                f"Check the sign of F. {few}",
            )
        )
    if abs(correlation) < 0.95:
        findings.append(
            Finding(
                "Energy and force labels seem inconsistent.",
                evidence,
                "Check that energies belong to their geometries, that energies and forces come from the same method "
                f"and are converged, and that no geometry is duplicated or broken. {few}",
            )
        )
    elif abs(abs(slope) - 1) > 0.1:
        findings.append(
            Finding(
                "Energies and forces seem to be in different units.",
                evidence,
                "Check the units of E and F: forces must be in the unit of E per unit of R. Energies predicted by this "
                f"model will be off. {few}",
            )
        )
    return findings


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
    idxs: Sequence[int] | Integers | None = None,
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
    """
    pairs = find_duplicates(R_desc, perms)
    if not pairs:
        return []
    numbers = range(len(R_desc)) if idxs is None else idxs
    i, j = pairs[0]
    evidence = (
        f"{len({k for _, k in pairs})} of {len(R_desc)} training points repeat the geometry of others, up to rigid "
        f"motions and symmetry: {numbers[i]} and {numbers[j]} of the dataset, for one."
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
