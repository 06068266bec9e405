"""Signs that geometries of a dataset are wrong: their unit, frames that do not belong, atoms in another order.

`diagnose_dataset` runs these checks and those of `fastgdml.diagnostics` that need no model. Nothing is logged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .descriptor import Array, IntArray, from_R
from .diagnostics import (
    Finding,
    as_numbers,
    atoms_text,
    check_constant_energies,
    check_duplicates,
    check_forces,
    check_linearity,
    nearest_descriptors,
    numbers_of,
    sums_in_common,
    unit_factor,
)
from .elements import MASSES
from .native import _core
from .neighbours import Neighbours, relabelled

# Distances between neighbours, in Angstrom, that atoms have; and those that no unit explains a little.
_USUAL_DISTANCES = (0.5, 5.0)
_POSSIBLE_DISTANCES = (0.005, 500.0)
# A hydrogen atom is this far from the atom of carbon, nitrogen or oxygen that holds it, in Angstrom.
_BOND_OF_HYDROGEN = 1.05
_BOHR = 0.529177210903
_UNITS = {"metres": 1e10, "centimetres": 1e8, "micrometres": 1e4, "nanometres": 10.0, "picometres": 0.01}
# A frame whose distances to neighbours are larger or smaller by this factor, all of them, has another unit.
_ANOTHER_SCALE = 1.35
# Two atoms nearer than this share of the usual distance to neighbours, in few frames or in any, are at one place.
_CLOSE, _AT_ONE_PLACE = 0.5, 0.2
# An atom farther from all others than this multiple of its usual distance has left them.
_DETACHED = 3.0
_FEW = 0.02
# Frames whose descriptors are in memory at once, and those that energies and forces are compared in.
_CHUNK = 512
_SAMPLE = 1000


def check_length_unit(near: Neighbours, z: npt.ArrayLike, r_unit: str | None = None) -> list[Finding]:
    """Compare distances between neighbours with those that atoms have.

    Parameters
    ----------
    near : Neighbours
        Neighbours in the geometries.
    z : array_like of int, shape (N,)
        Atomic numbers.
    r_unit : str, optional
        Unit of length that is recorded; Angstrom is assumed if there is none.

    Returns
    -------
    list of Finding
        An error where the numbers are off by so many orders of magnitude that nothing can be trained.
    """
    size = 1.0
    if r_unit:
        with suppress(ValueError):  # an unknown unit: the numbers must speak for themselves
            size = float(_core.length_factor(r_unit, "Ang"))
    typical = float(np.median(near.distance))
    said = f"the recorded unit, {r_unit}" if r_unit else "Angstrom, which is assumed as none is recorded"
    evidence = f"Neighbouring atoms are {typical:.3g} apart (median), in {said}"
    if not _USUAL_DISTANCES[0] <= typical * size <= _USUAL_DISTANCES[1]:
        guess = [name for name, unit in _UNITS.items() if 0.6 <= typical * unit <= 4.0]
        if 0.6 <= typical <= 4.0:
            guess = ["Angstrom or Bohr"]
        possible = _POSSIBLE_DISTANCES[0] <= typical * size <= _POSSIBLE_DISTANCES[1]
        return [
            Finding(
                "The unit of length seems to be wrong.",
                f"{evidence}; 0.5 to 5 Angstrom are usual.{f' R seems to be in {guess[0]}.' if guess else ''}",
                "Convert R to Angstrom (and F to match), or record the right r_unit: sigma and lambda are chosen for "
                "such lengths.",
                level="warning" if possible else "error",
            )
        ]
    z = np.asarray(z)
    held = (z == 1)[None, :] & np.isin(z[near.nearest], (6, 7, 8))
    if not r_unit or not held.any():
        return []
    bond = float(np.median(near.distance[held]))
    ratio = bond * size / _BOND_OF_HYDROGEN
    if abs(abs(np.log(ratio)) + np.log(_BOHR)) > 0.15:
        return []
    other = "Bohr" if ratio > 1 else "Angstrom"
    return [
        Finding(
            "The unit of length seems to be wrong.",
            f"Hydrogen is {bond:.3g} from the C, N or O that holds it (median), in {said}; that is right in {other}.",
            f"Record r_unit = '{other}' or convert R, and check that F matches.",
        )
    ]


def check_frames(near: Neighbours, z: npt.ArrayLike, idxs: Sequence[int] | IntArray | None = None) -> list[Finding]:
    """Look for geometries that do not belong to the others: another length scale, or two atoms almost at one place.

    Parameters
    ----------
    near : Neighbours
        Neighbours in the geometries.
    z : array_like of int, shape (N,)
        Atomic numbers.
    idxs : sequence of int, optional
        Numbers of the geometries in their dataset.
    """
    n_geo, n_atoms = near.distance.shape
    if n_geo < 3:
        return []
    numbers = np.arange(n_geo) if idxs is None else np.asarray(idxs)
    usual = near.usual()
    ratio = np.log(near.distance / usual)
    shift = np.median(ratio, axis=1)
    findings = []
    scaled = np.zeros(n_geo, dtype=bool)
    if n_atoms > 2:
        spread = np.median(np.abs(ratio - shift[:, None]), axis=1)
        scaled = (np.abs(shift) > np.log(_ANOTHER_SCALE)) & (spread < 0.5 * np.abs(shift))
    if scaled.any():
        factor = float(np.exp(np.median(shift[scaled])))
        name = _length_ratio(factor)
        findings.append(
            Finding(
                "Some geometries have another length scale than the others.",
                f"In {np.count_nonzero(scaled)} of {n_geo}, {numbers_of(numbers[scaled])} of the dataset, distances "
                f"between neighbours are {factor:.3g} times those of the rest{name}.",
                "Convert or remove them.",
                frames=as_numbers(numbers[scaled]),
            )
        )
    limit = np.minimum(usual[None, :], usual[near.nearest])
    close = (near.distance < _CLOSE * limit) & ~scaled[:, None]
    if n_atoms == 2 or np.count_nonzero(close.any(axis=1)) > max(1, _FEW * n_geo):
        close = (near.distance < _AT_ONE_PLACE * limit) & ~scaled[:, None]
    frames = np.flatnonzero(close.any(axis=1))
    if len(frames):
        worst = int(frames[(near.distance / limit)[frames].min(axis=1).argmin()])
        atom = int((near.distance / limit)[worst].argmin())
        pair = sorted((atom, int(near.nearest[worst, atom])))
        findings.append(
            Finding(
                "Two atoms are almost at one place in some geometries.",
                f"In {len(frames)} of {n_geo}, {numbers_of(numbers[frames])} of the dataset: {atoms_text(pair, z)} of "
                f"geometry {numbers[worst]} are {near.distance[worst, atom]:.3g} apart, where neighbours usually are "
                f"{limit[worst, atom]:.3g}.",
                "Remove or repair them.",
                frames=as_numbers(numbers[frames]),
                atoms=as_numbers(np.flatnonzero(close.any(axis=0))),
            )
        )
    return findings


def _length_ratio(factor: float) -> str:
    for name, size in (("Angstrom and Bohr", 1 / _BOHR), ("nanometres and Angstrom", 10.0)):
        if abs(abs(np.log(factor)) - np.log(size)) < 0.1:
            return f", the ratio of {name}"
    return ""


def check_order_of_atoms(
    near: Neighbours, z: npt.ArrayLike, idxs: Sequence[int] | IntArray | None = None
) -> list[Finding]:
    """Look for geometries that list like atoms in another order than most; see `fastgdml.neighbours.relabelled`.

    Parameters
    ----------
    near : Neighbours
        Neighbours in the geometries.
    z : array_like of int, shape (N,)
        Atomic numbers.
    idxs : sequence of int, optional
        Numbers of the geometries in their dataset.
    """
    frames, atoms = relabelled(near, z)
    if not len(frames):
        return []
    numbers = np.arange(len(near.nearest)) if idxs is None else np.asarray(idxs)
    return [
        Finding(
            "Like atoms are listed in another order in some geometries.",
            f"In {len(frames)} of {len(near.nearest)}, {numbers_of(numbers[frames])} of the dataset, "
            f"{atoms_text(atoms, z)} are bound to other atoms than in most.",
            "List atoms in the same order in all geometries, or remove these: symmetries that are found among them "
            "make no sense, and a model of them is bad.",
            frames=as_numbers(numbers[frames]),
            atoms=as_numbers(atoms),
        )
    ]


def check_training_geometries(
    R_desc: Array, z: npt.ArrayLike, r_unit: str | None = None, idxs: Sequence[int] | IntArray | None = None
) -> list[Finding]:
    """Run the checks of training geometries by their descriptors (M, D): unit, frames that do not belong, order.

    See `check_length_unit`, `check_frames`, `check_order_of_atoms`.
    """
    near = Neighbours.of(R_desc)
    return [
        *check_length_unit(near, z, r_unit),
        *check_frames(near, z, idxs),
        *check_order_of_atoms(near, z, idxs),
    ]


def check_training_unit(R_desc: Array, z: npt.ArrayLike, r_unit: str | None = None) -> list[Finding]:
    """Look for training geometries, descriptors (M, D), in a unit of length that nothing can be trained in."""
    few = Neighbours.of(R_desc[:100])
    return [finding for finding in check_length_unit(few, z, r_unit) if finding.level == "error"]


def check_detached(near: Neighbours, z: npt.ArrayLike, periodic: bool) -> list[Finding]:
    """Look for atoms that are far from all others in few geometries."""
    n_geo, n_atoms = near.distance.shape
    if n_atoms < 3 or n_geo < 3:
        return []
    ratio = near.distance / near.usual()
    far = ratio > _DETACHED * np.maximum(np.median(ratio, axis=1), 1.0)[:, None]
    frames = np.flatnonzero(far.any(axis=1))
    if not len(frames):
        return []
    atoms = np.flatnonzero(far.any(axis=0))
    remedy = "" if periodic else ", or the molecule crosses the boundary of a box whose lattice is not in the dataset"
    return [
        Finding(
            "Single atoms are far from all others in some geometries.",
            f"{atoms_text(atoms, z, 'Atom')}, in {len(frames)} of {n_geo} geometries, {numbers_of(frames)}: up to "
            f"{near.distance[far].max():.3g} from the nearest atom, {float(np.median(near.usual()[atoms])):.3g} is "
            "usual.",
            f"The molecule dissociates{remedy}: look at them.",
            level="note",
            frames=as_numbers(frames),
            atoms=as_numbers(atoms),
        )
    ]


def check_wrapped(R: npt.ArrayLike, cell: Cell, z: npt.ArrayLike) -> list[Finding]:
    """Look for atoms that jump by a lattice vector from a geometry to the next; harmless to training.

    Parameters
    ----------
    R : array_like, shape (M, N, 3)
        Geometries.
    cell : Cell
        Their cell or cells.
    z : array_like of int, shape (N,)
        Atomic numbers.
    """
    R = np.asarray(R, dtype=np.float64)
    inverse = np.linalg.inv(cell.lattice)
    inverse = np.broadcast_to(inverse, (len(R), 3, 3))[1:]
    steps = np.einsum("mij,maj->mai", inverse, np.diff(R, axis=0))
    # what all atoms do together is a motion of the whole
    steps -= np.round(np.median(steps, axis=1, keepdims=True))
    jump = (np.round(steps) != 0).any(axis=2)
    frames = np.flatnonzero(jump.any(axis=1)) + 1
    if not len(frames):
        return []
    atoms = np.flatnonzero(jump.any(axis=0))
    return [
        Finding(
            "Atoms jump by lattice vectors between geometries: they are wrapped into the cell.",
            f"{atoms_text(atoms, z, 'Atom')}, in {len(frames)} of {len(R)} geometries, {numbers_of(frames)}.",
            "Harmless: distances are those to the nearest image. Unwrap them for programs that do not know the cell.",
            level="note",
            frames=as_numbers(frames),
            atoms=as_numbers(atoms),
        )
    ]


def check_drift(R: npt.ArrayLike, z: npt.ArrayLike) -> list[Finding]:
    """Look for a centre of mass that moves farther than the molecule is wide; harmless to training.

    Parameters
    ----------
    R : array_like, shape (M, N, 3)
        Geometries of a molecule, in the order of a trajectory.
    z : array_like of int, shape (N,)
        Atomic numbers.
    """
    R = np.asarray(R, dtype=np.float64)
    mass = np.array([MASSES[number] for number in np.asarray(z)])
    centre = np.einsum("a,mai->mi", mass, R) / mass.sum()
    path = np.linalg.norm(centre - centre[0], axis=1)
    radius = float(np.sqrt(np.mean(np.sum((R - centre[:, None]) ** 2, axis=2))))
    frame = int(path.argmax())
    if path[frame] <= 3 * radius:
        return []
    return [
        Finding(
            "The centre of mass drifts.",
            f"Geometry {frame} is {path[frame]:.3g} from the first one; the radius of gyration is {radius:.3g}.",
            "Harmless: descriptors do not change under translations. In a simulation of a molecule at rest it is a "
            "sign of net forces or of a thermostat that heats its translation.",
            level="note",
            frames=(frame,),
        )
    ]


def check_label_outliers(E: npt.ArrayLike | None, F: npt.ArrayLike) -> list[Finding]:
    """Look for geometries with energies or forces far outside the range of the others.

    Parameters
    ----------
    E : array_like, shape (M,), or None
        Energy labels.
    F : array_like, shape (M, N, 3)
        Force labels.
    """
    F = np.asarray(F)
    findings = []
    size = np.sqrt(np.einsum("mai,mai->m", F, F, dtype=np.float64))
    usual = float(np.median(size))
    large = np.flatnonzero(size > 50 * usual) if usual > 0 else np.empty(0, dtype=np.int64)
    if 0 < len(large) <= max(1, _FEW * len(F)):
        findings.append(
            Finding(
                "Some geometries have far larger forces than the others.",
                f"Geometries {numbers_of(large)}: up to {size.max() / usual:.0f} times the median.",
                "Look at these calculations (converged? another unit? atoms too close?), and mend or remove them.",
                frames=as_numbers(large),
            )
        )
    if E is None:
        return findings
    E = np.asarray(E, dtype=np.float64).ravel()
    low, high = np.quantile(E, [0.05, 0.95])
    beyond = np.flatnonzero(np.maximum(low - E, E - high) > 2 * (high - low)) if high > low else np.empty(0, np.int64)
    if 0 < len(beyond) <= max(1, _FEW * len(E)):
        findings.append(
            Finding(
                "Some geometries have energies far from the others.",
                f"Geometries {numbers_of(beyond)}: {E[beyond[0]]:.8g} for one; nine of ten lie between {low:.8g} and "
                f"{high:.8g}.",
                "Look at these calculations (converged? the same method, charge and spin?), and mend or remove them.",
                frames=as_numbers(beyond),
            )
        )
    return findings


def check_work(R: Array, E: Array, F: Array, R_desc: Array, cell: Cell | None = None) -> list[Finding]:
    """Compare differences of energy between near geometries with the work of the forces on the way.

    For geometries that are near each other, E_j - E_i = -1/2 (F_i + F_j) . (R_j - R_i), to third order in the distance.
    That holds along trajectories and in dense samples; elsewhere the two are hardly correlated, and nothing is said.

    Parameters
    ----------
    R, F : ndarray, shape (M, N, 3)
        Geometries and forces.
    E : ndarray, shape (M,)
        Energies.
    R_desc : ndarray, shape (M, D)
        Descriptors.
    cell : Cell, optional
        Periodic cell or cells.
    """
    if len(R) < 20 or np.ptp(E) == 0:
        return []
    j = nearest_descriptors(R_desc)
    if cell is None:
        A = R - R.mean(axis=1, keepdims=True)
        left, _, right = np.linalg.svd(np.einsum("mai,maj->mij", A[j], A))
        left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]  # a rotation, no reflection
        turn = left @ right
        way, F_j = A[j] @ turn - A, F[j] @ turn
    else:
        way, F_j = R[j] - R, F[j]
        lattice = np.broadcast_to(cell.lattice, (len(R), 3, 3))
        images = np.round(np.einsum("mij,maj->mai", np.linalg.inv(lattice), way))
        way = way - np.einsum("mij,maj->mai", lattice, images)
        way -= way.mean(axis=1, keepdims=True)
    work, change = -0.5 * np.einsum("mai,mai->m", F + F_j, way), E[j] - E
    scale = float(np.sqrt((work @ work) * (change @ change)))
    if not scale > 0:
        return []
    correlation, slope = float(work @ change) / scale, float(work @ change / (work @ work))
    evidence = (
        f"Between nearest neighbours of {len(R)} geometries differences of energy follow the work of the forces with "
        f"slope {slope:.2g} and correlation {correlation:.2f}; 1 is expected of both."
    )
    findings = []
    if correlation < -0.9:
        findings.append(
            Finding(
                "The force labels seem to have the wrong sign (gradients instead of forces).",
                evidence,
                "Check the sign of F: forces are the negative gradient of E.",
            )
        )
    if abs(correlation) > 0.97 and abs(np.log(abs(slope))) > np.log(1.4):
        factor = unit_factor(abs(slope))
        findings.append(
            Finding(
                "Energies and forces seem to be in different units.",
                evidence + (f" That is the ratio of {factor}." if factor else ""),
                "Check the units of E and F: forces must be in the unit of E per unit of R.",
            )
        )
    return findings


def diagnose_dataset(dataset: Mapping[str, Any]) -> list[Finding]:
    """Run every check of a dataset that needs no model.

    Those are what a training would say of its training points: unit of length, geometries that do not belong, atoms in
    another order, duplicates, linear molecules, constant energies, net forces; and further outliers of labels, single
    atoms far away, wrapped atoms, drift, sign and units of forces where geometries are near enough to tell.

    Parameters
    ----------
    dataset : mapping
        A dataset as from `fastgdml.dataset.load_dataset`.

    Returns
    -------
    list of Finding
        Errors first, notes last.
    """
    z, R, F = np.asarray(dataset["z"]), np.asarray(dataset["R"]), np.asarray(dataset["F"])
    E = None if dataset.get("E") is None else np.asarray(dataset["E"], dtype=np.float64).ravel()
    cell = None if dataset.get("lattice") is None else Cell(dataset["lattice"])
    r_unit = str(dataset["r_unit"]) if "r_unit" in dataset else None

    # Descriptors of all geometries would fill the memory: keep neighbours, and sums that duplicates have in common.
    parts, sums = [], []
    for first in range(0, len(R), _CHUNK):
        part = slice(first, first + _CHUNK)
        x = from_R(R[part], cell and cell.part(part))[0]
        parts.append(Neighbours.of(x))
        sums.append(x.sum(axis=1))
    near = Neighbours.joined(parts)

    def descriptors(which: IntArray) -> Array:
        return from_R(R[which], cell and cell.part(which))[0]

    findings = [
        *check_length_unit(near, z, r_unit),
        *check_frames(near, z),
        *check_order_of_atoms(near, z),
        *check_forces(z, R, F, cell is not None),
        *check_label_outliers(E, F),
    ]
    twins = sums_in_common(np.concatenate(sums))
    if len(twins):
        findings += check_duplicates(descriptors(twins), F[twins], dataset.get("perms"), twins, len(R), "geometries")
    if cell is None:
        findings += check_linearity(np.asarray(R, dtype=np.float64))
    if E is not None:
        findings += check_constant_energies(E)
        some = np.arange(0, len(R), -(-len(R) // _SAMPLE))
        R_some, F_some = (np.asarray(array[some], dtype=np.float64) for array in (R, F))
        findings += check_work(R_some, E[some], F_some, descriptors(some), cell and cell.part(some))
    findings += check_detached(near, z, cell is not None)
    findings += check_drift(R, z) if cell is None else check_wrapped(R, cell, z)
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.level))
