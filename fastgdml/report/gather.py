"""Facts of a model: read from its entries, measured on a dataset."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..cell import image_rule_of
from ..config import configuration
from ..dataset import check_same_system, lattice_of, load_dataset, part_of, take_points
from ..elements import SYMBOLS
from ..errors import NoPointsLeftError
from ..evaluate import calibration, draw_test_points
from ..flat import flat_entries, load_flat
from ..formats.frames import formula
from ..learning_curve import CurvePoint
from ..model import is_validated, load_model
from ..model_arrays import ModelArrays
from ..npz import is_flat, text
from ..overlap import KnownGeometries
from ..predict import GDMLPredict
from ..progress import Callback, Step
from ..properties import Outcome, Properties
from ..sampling import draw_points, generator
from ..threads import resolve_n_threads
from ..types import Array, IntArray
from ..uncertainty import leave_one_out_errors
from ..units import Units, conversion
from ..weights import by_weight, summary
from .accuracy import Predictions, accuracy
from .facts import Accuracy, Deviations, Facts, Molecule, Origin, PairWeight, Quantity, Timing, Trial
from .structure import cycles_of, embedded, geometry_of, orbits_of

_log = logging.getLogger(__name__)

# Geometries predicted between two progress reports.
_CHUNK = 500
# Permutations whose cycles are listed.
_N_CYCLES = 24
# Parts of the test points that standard deviations are compared in.
_N_PARTS = 10
# Seconds that a measurement of speed takes, about.
_SECONDS = 0.4


@dataclass(frozen=True)
class Sources:
    """What a report is made from, beside the model.

    Attributes
    ----------
    dataset : mapping or path-like, optional
        Labelled geometries to compare with: those that the model has not seen.
    n_test : int
        Most geometries to compare with.
    seed : int
        Seed of their draw.
    search : sequence of path-like
        Models of the search for sigma, which the file of a selected model does not hold.
    learning_curve : sequence of CurvePoint
        A learning curve to show.
    n_worst : int
        Number of geometries with large errors to draw.
    timing : bool
        Whether to measure the speed of predictions.
    """

    dataset: Mapping[str, Any] | str | os.PathLike[str] | None = None
    n_test: int = 2000
    seed: int = 0
    search: Sequence[str | os.PathLike[str]] = ()
    learning_curve: Sequence[CurvePoint] = field(default_factory=list)
    n_worst: int = 4
    timing: bool = True


def gather(
    model: str | os.PathLike[str],
    sources: Sources | None = None,
    max_processes: int | None = None,
    callback: Callback | None = None,
) -> Facts:
    """Gather the facts about a model.

    Parameters
    ----------
    model : path-like
        Model file, also a flat one.
    sources : Sources, optional
        What else to look at.
    max_processes : int, optional
        Number of threads. All by default.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.

    Returns
    -------
    Facts

    Raises
    ------
    FileFormatError, DataError
        If a file cannot be used.
    UsageError
        If the dataset is of other atoms.
    """
    sources = sources or Sources()
    flat = is_flat(model)
    entries: Mapping[str, Any] = flat_entries(model) if flat else load_model(model)
    arrays = ModelArrays.of(entries) if not flat else ModelArrays.of_native(load_flat(model))
    predictor = GDMLPredict(model if flat else entries, max_processes=max_processes)
    dataset = sources.dataset
    if isinstance(dataset, str | os.PathLike):
        dataset = load_dataset(dataset)
    compared = None
    if dataset is not None:
        check_same_system(entries, dataset, "model", "dataset")
        compared = _compare(entries, arrays, predictor, dataset, sources, callback)
    outcome = Outcome.of(entries)
    expected = {name: Quantity(mae, outcome.rmse[name], None) for name, mae in outcome.mae.items() if np.isfinite(mae)}
    timing = None
    if sources.timing:
        R, lattice = _geometries(entries, arrays, dataset)
        timing = None if R is None else _timing(predictor, R, lattice, resolve_n_threads(max_processes), callback)
    return Facts(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        origin=_origin(entries, arrays, Path(model)),
        molecule=_molecule(entries, arrays, dataset),
        expected=expected,
        expected_from="test" if outcome.n_test else "validation",
        search=_search(entries, sources.search),
        accuracy=compared,
        learning_curve=list(sources.learning_curve),
        timing=timing,
        left_out=_left_out(entries),
        weights=_weights(entries),
    )


# ---- the model --------------------------------------------------------------------------------------------------


def _origin(model: Mapping[str, Any], arrays: ModelArrays, path: Path) -> Origin:
    units, known, noise = Units.of(model), Properties.of(model), Outcome.of(model).label_noise
    cell = None if arrays.cell is None else arrays.cell.lattice.reshape(-1, 3, 3)[0]
    return Origin(
        file=path.name,
        name=known.name,
        formula=formula(arrays.z.tolist()),
        theory=known.theory,
        n_atoms=len(arrays.z),
        n_train=len(arrays.x),
        n_perms=known.n_perms,
        sig=known.sig,
        lam=known.lam if np.isfinite(known.lam) else None,
        e_unit=units.energy,
        r_unit=units.length,
        f_unit=units.force,
        energies=_energies(known),
        cell=None if cell is None else cell.T.tolist(),
        entries=_further(model, known),
        label_noise=noise if np.isfinite(noise) else None,
    )


def _energies(known: Properties) -> str:
    if not known.use_E:
        return "not used: predicted up to a constant"
    return "constrained point by point" if known.constrain_E else "one integration constant"


def _further(model: Mapping[str, Any], known: Properties) -> dict[str, str]:
    """Return names and values of what else a model records."""
    rows = {}
    outcome = Outcome.of(model)
    points = (
        ("Training points", known.idxs_train, known.md5_train),
        ("Validation points", known.idxs_valid, known.md5_valid),
    )
    for label, idxs, md5 in points:
        if len(idxs):
            rows[label] = f"{len(idxs):,}" + (f" of dataset {md5}" if md5 else "")
    if outcome.n_test:
        rows["Test points"] = f"{outcome.n_test:,} of dataset {outcome.md5_test}"
    if outcome.solver != "unknown":
        rows["Solver"] = {"analytic": "closed form", "cg": "conjugate gradients"}.get(outcome.solver, outcome.solver)
        if outcome.n_steps is not None:
            rows["Solver"] += f", {outcome.n_steps:,} steps" + ("" if outcome.converged else ", NOT CONVERGED")
        if outcome.reason:
            rows["Chosen for"] = outcome.reason
    rows.update(summary(model))
    if "lattice" in model:
        rows["Image rule"] = {"minimum": "nearest image", "rounding": "rounding, as sgdml"}[image_rule_of(model)]
    if known.seed is not None:
        rows["Seed"] = str(known.seed)
    if known.code_version != "unknown":
        rows["Trained with"] = known.code_version
    return rows


def _weights(model: Mapping[str, Any]) -> list[PairWeight]:
    weights = Properties.of(model).desc_weights
    if weights is None or "perms" not in model:
        return []
    return [PairWeight(pairs, weight) for pairs, weight in by_weight(weights, model["perms"], model["z"])]


def _left_out(model: Mapping[str, Any]) -> Quantity | None:
    found = leave_one_out_errors(model)
    return None if found is None else Quantity(*found, None)


def _molecule(model: Mapping[str, Any], arrays: ModelArrays, dataset: Mapping[str, Any] | None) -> Molecule:
    z = arrays.z.tolist()
    positions, source = None, "the model alone does not tell the positions of periodic systems"
    if dataset is not None:
        factors = conversion(Units.of(dataset), Units.of(model), "dataset", "model")
        positions = take_points(dataset, np.array([0]), factors).R[0]
        source = "the first geometry of the dataset"
    elif arrays.image_rule is None:
        # Descriptors are inverse distances: they tell the geometry but for its handedness.
        positions = embedded(1 / _descriptors(model)[0], len(z))
        source = "the first training point, from its distances; it may be the mirror image"
    perms = np.reshape(model.get("perms", np.arange(len(z))), (-1, len(z)))
    return Molecule(
        z=z,
        symbols=[SYMBOLS[number] for number in z],
        geometry=None if positions is None else geometry_of(positions, z),
        geometry_from=source,
        orbits=orbits_of(perms),
        cycles=[cycles_of(perm) for perm in perms[1 : _N_CYCLES + 1]],
    )


def _search(model: Mapping[str, Any], paths: Sequence[str | os.PathLike[str]]) -> list[Trial]:
    """Return the trials of the search for sigma: from its models if they are given, or as the model records them."""
    if not paths:
        return [_trial(row) for row in Outcome.of(model).search]
    trials = []
    for path in paths:
        candidate = load_model(path)
        if not is_validated(candidate):
            _log.warning("%s is not validated: it is left out of the search.", path)
            continue
        outcome = Outcome.of(candidate)
        if outcome.n_test:
            _log.warning("%s was tested: its errors are those of the test, not of the validation.", path)
        errors = [each.get(name, np.nan) for name in ("force", "energy") for each in (outcome.mae, outcome.rmse)]
        trials.append(_trial([Properties.of(candidate).sig, *errors]))
    return sorted(trials, key=lambda trial: trial.sig)


def _trial(row: Sequence[float]) -> Trial:
    return Trial(row[0], *(value if np.isfinite(value) else None for value in row[1:]))


# ---- predictions ------------------------------------------------------------------------------------------------


def _compare(
    model: Mapping[str, Any],
    arrays: ModelArrays,
    predictor: GDMLPredict,
    dataset: Mapping[str, Any],
    sources: Sources,
    callback: Callback | None,
) -> Accuracy | None:
    """Compare with geometries that the model has not seen."""
    try:
        left = np.sort(draw_test_points(model, dataset, None, sources.seed))
    except NoPointsLeftError as error:
        _log.warning("The report has no test. %s", error)
        return None
    idxs = left
    if sources.n_test < len(left):
        idxs = np.sort(left[draw_points(part_of(dataset, left), sources.n_test, generator(sources.seed))])
    factors = conversion(Units.of(dataset), Units(predictor.e_unit, predictor.r_unit), "dataset", "model")
    use_E = "E" in dataset and Properties.of(model).use_E
    points = take_points(dataset, idxs, factors)
    step = Step(callback, f"Predicting {len(idxs):,} test points", len(idxs))
    E, F = np.empty(len(idxs)), np.empty((len(idxs), len(arrays.z), 3))
    for first in range(0, len(idxs), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(idxs)))
        lattice = points.lattice
        if lattice is not None and lattice.ndim == 3:
            lattice = lattice[part]
        E[part], f = predictor.predict(points.R[part].reshape(part.stop - first, -1), lattice=lattice)
        F[part] = f.reshape(-1, *F.shape[1:])
        step(part.stop, len(idxs))
    step.done()
    predictions = Predictions(arrays.z, idxs, points, E if use_E else None, F)
    name, md5 = (text(dataset.get(key, "")) for key in ("name", "md5"))
    found = accuracy(predictions, (name, md5), len(left), sources.n_worst)
    return replace(found, deviations=_deviations(predictor, dataset, idxs, use_E, callback))


def _deviations(
    predictor: GDMLPredict, dataset: Mapping[str, Any], idxs: IntArray, use_E: bool, callback: Callback | None
) -> Deviations | None:
    """Compare standard deviations with errors; None for a model without samples, or a single point."""
    if not predictor.has_std or len(idxs) < 2:
        return None
    step = Step(callback, f"Standard deviations of {len(idxs):,} test points")
    found = calibration(predictor, dataset, idxs, use_E, _N_PARTS)
    step.done()
    return Deviations(
        force_ratio=_known(found.force_ratio),
        energy_ratio=_known(found.energy_ratio),
        rank_correlation=_known(found.rank_correlation),
        parts=found.bins.tolist(),
    )


def _known(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _geometries(
    model: Mapping[str, Any], arrays: ModelArrays, dataset: Mapping[str, Any] | None
) -> tuple[Array | None, Array | None]:
    """Return geometries to measure speed with, in the unit of the model, and their lattice vectors."""
    if dataset is not None:
        idxs = np.arange(min(1000, len(dataset["R"])))
        factors = conversion(Units.of(dataset), Units(arrays.e_unit, arrays.r_unit), "dataset", "model")
        points = take_points(dataset, idxs, factors)
        return points.R.reshape(len(idxs), -1), None if lattice_of(dataset, idxs) is None else points.lattice
    if arrays.image_rule is not None:
        return None, None
    R = np.array([embedded(1 / x, len(arrays.z)) for x in _descriptors(model)[:200]])
    return R.reshape(len(R), -1), None


def _descriptors(model: Mapping[str, Any]) -> Array:
    """Return the inverse distances of the training points, without the weights that a model may give them."""
    known = KnownGeometries.of(model)
    assert known is not None  # every model holds them
    return known.x


def _timing(
    predictor: GDMLPredict, R: Array, lattice: Array | None, n_threads: int, callback: Callback | None
) -> Timing:
    step = Step(callback, "Measuring the speed of predictions")
    bulk = _seconds(lambda: predictor.predict(R, lattice=lattice)) / len(R)
    one = None if lattice is None else lattice if lattice.ndim == 2 else lattice[:1]
    single = _seconds(lambda: predictor.predict(R[:1], lattice=one))
    step.done()
    names = configuration()
    machine = f"{names['processor']}, {names['instruction set']}"
    return Timing(1 / bulk, 1e6 * single, n_threads, machine)


def _seconds(call: Any) -> float:
    """Return the time of a call, the median of what fits into a while."""
    call()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 5000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
