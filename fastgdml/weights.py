"""Learned weights of pairs of atoms: x_k = w_k / r_k, one weight for all pairs that are alike.

sGDML measures all pairs with one length scale. Here the weights follow from the training forces themselves, as the
minimum of the objective of `fastgdml.evidence` on some of the training points, and are judged afterwards by the errors
of forces and energies on the validation points, beside those of a model without weights at its best sigma. Where either
is larger, pairs are tied by type, and if that does not help the weights are given up.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .cell import Cell
from .dataset import load_dataset, take_points
from .descriptor import from_R, jacobian_dot, weighted
from .engine import NativeEngine
from .errors import UsageError
from .evidence import Evidence, Kind
from .group import GroupTables
from .model_arrays import ModelArrays
from .native import _core
from .pair_types import PairClasses, orbits, types
from .progress import Callback, Step
from .properties import Properties
from .solvers.cholesky import solve_once
from .solvers.equations import TrainingEquations
from .solvers.processor import processor
from .task import Task, TaskArrays
from .training_set import TrainingSet
from .types import Array, IntArray, Integers
from .units import Units, conversion

_log = logging.getLogger(__name__)

KINDS = ("none", "orbits", "types")

# Largest orders of the matrices that weights are learned and judged with: about 40 of the former, 10 of the latter.
_LEARN_ORDER = 4500
_JUDGE_ORDER = 9000
# Evaluations of the objective at most, and what it changes by at the end.
_MAX_EVALUATIONS = 60
_TOLERANCE = 5e-5
# Standard deviation of log w around its mean that is expected before anything is known.
_PRIOR = 1.0
# Pairs that weigh less than this, in units of the geometric mean, are named: by the prior one in a hundred would.
_IDLE = 0.1
# Steps of the search of sigma for the model without weights.
_SIGMA_STEP = 2**0.5


@dataclass(frozen=True)
class Points:
    """Labelled geometries.

    Attributes
    ----------
    R, F : ndarray, shape (M, N, 3)
        Geometries and forces.
    E : ndarray, shape (M,), or None
        Energies.
    cell : Cell or None
        Their cell or cells.
    """

    R: Array
    F: Array
    E: Array | None
    cell: Cell | None

    def part(self, chosen: IntArray) -> Points:
        """Return some of them."""
        E = None if self.E is None else self.E[chosen]
        return Points(self.R[chosen], self.F[chosen], E, self.cell and self.cell.part(chosen))


@dataclass(frozen=True)
class System:
    """What all points have in common.

    Attributes
    ----------
    z : ndarray of int, shape (N,)
        Atomic numbers.
    tables : GroupTables
        The permutations.
    lam : float
        Regularisation.
    to_angstrom : float
        The unit of length in Angstrom.
    n_threads : int
        Number of threads.
    """

    z: Integers
    tables: GroupTables
    lam: float
    to_angstrom: float
    n_threads: int


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors on the validation points; that of energies is None without them."""

    force: float
    energy: float | None

    def gain_over(self, other: Errors) -> tuple[float, float]:
        """Return the shares by which errors are smaller than others, of forces and of energies (NaN without them)."""
        energy = math.nan if self.energy is None or other.energy is None else 1 - self.energy / other.energy
        return 1 - self.force / other.force, energy


@dataclass(frozen=True)
class Learned:
    """The outcome.

    Attributes
    ----------
    weights : ndarray, shape (D,), or None
        Weights whose geometric mean over the pairs is 1; None: the model without weights was better.
    sig : float
        The length scale that belongs to them; without weights, the best one.
    classes : PairClasses
        Pairs that have one weight.
    gain : tuple of float
        Shares by which the errors of forces and energies are smaller than without weights, on the validation points; of
        the last attempt where weights is None.
    plain : Errors
        Errors of the model without weights.
    """

    weights: Array | None
    sig: float
    classes: PairClasses
    gain: tuple[float, float]
    plain: Errors


def by_weight(weights: Array, perms: Integers, z: Integers) -> list[tuple[str, float]]:
    """Return the name and weight of each orbit of pairs, the heaviest first.

    Parameters
    ----------
    weights : ndarray, shape (D,)
        Weights of pairs.
    perms : ndarray of int, shape (P, N)
        The permutations.
    z : ndarray of int, shape (N,)
        Atomic numbers.
    """
    classes = orbits(GroupTables.from_perms(perms), z)
    of_class = classes.sums(weights) / classes.sums(np.ones_like(weights))
    return [(classes.names[c], float(of_class[c])) for c in np.argsort(-of_class, kind="stable")]


def summary(model: Mapping[str, Any], n_heaviest: int = 5) -> list[tuple[str, str]]:
    """Return what there is to say of the learned weights of a task or model, as lines of (label, value)."""
    known = Properties.of(model)
    if known.desc_weights is None:
        given_up = "given up: they did not help on the validation points"
        return [] if known.weights == "none" else [("Weights of pairs", given_up)]
    rows = [("Weights of pairs", "learned" if known.weights == "none" else f"learned ({known.weights})")]
    named = zip(("forces", "energies"), known.weights_gain, strict=True)
    gains = [f"{what} {-gain:+.0%}" for what, gain in named if np.isfinite(gain)]
    if gains:
        rows.append(("Validation errors", f"{', '.join(gains)}, against no weights at the best sigma"))
    if "perms" not in model:  # flat models do not name the permutations of atoms
        return rows
    pairs = by_weight(known.desc_weights, model["perms"], model["z"])
    rows.append(("Heaviest pairs", ", ".join(f"{name} {weight:.2f}" for name, weight in pairs[:n_heaviest])))
    idle = [name for name, weight in pairs if weight < _IDLE]
    if idle:
        more = f" and {len(idle) - n_heaviest} more" if len(idle) > n_heaviest else ""
        rows.append((f"Pairs below {_IDLE:g}", f"{', '.join(idle[:n_heaviest])}{more}: they carry next to nothing"))
    return rows


def learn(
    system: System,
    training: Points,
    validation: Points,
    kind: str,
    callback: Callback | None = None,
    objective: Kind = "likelihood",
) -> Learned:
    """Learn weights of pairs from training points and judge them by validation points.

    Parameters
    ----------
    system : System
        Atoms, permutations, lambda.
    training, validation : Points
        The points, of which some are used, evenly spread, where they are many.
    kind : {'orbits', 'types'}
        Which pairs have one weight: those that permutations move into each other, or all of the same elements and
        number of bonds between them. Where orbits lose, types are tried.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.
    objective : {'likelihood', 'leave-one-out'}
        What the weights minimise; see `fastgdml.evidence`.

    Returns
    -------
    Learned

    Raises
    ------
    UsageError
        If there are no validation points, or the kind is unknown.
    """
    check_kind(kind, len(validation.R))
    n_kept = max(3 * len(system.z) - 6, 1)
    judged = training.part(_spread(len(training.R), _JUDGE_ORDER // n_kept))
    judge = _Judge(system, judged, validation)
    step = Step(callback, "Searching the best sigma without weights")
    sig, plain = judge.best_sigma(lambda tried, best: step(tried, tried + 1, f"sigma {best:.3g}"))
    step.done(f"sigma {sig:.3g}, {_described(plain)}")

    learning = training.part(_spread(len(training.R), _LEARN_ORDER // n_kept))
    x, g = from_R(learning.R, learning.cell, system.n_threads)
    periodic = learning.cell is not None
    points = TrainingSet(x, g, system.tables, 1.0)
    evidence = Evidence(learning.R, learning.F, points, system.lam, periodic, objective, system.n_threads)
    ways = {"orbits": orbits(system.tables, system.z), "types": _types(system, x)}
    if kind == "types":
        del ways["orbits"]
    for way, classes in ways.items():
        step = Step(callback, f"Learning weights of {len(classes)} {way} of pairs", _MAX_EVALUATIONS)
        theta = minimise(evidence, classes, -math.log(sig), step)
        weights, new_sig = _normalised(theta)
        errors = judge(weights, new_sig)
        gain = errors.gain_over(plain)
        helps = min(gain[0], 0.0 if math.isnan(gain[1]) else gain[1]) >= 0
        step.done(f"sigma {new_sig:g}, {_described(errors)}", warn=not helps)
        if helps:
            return Learned(weights, new_sig, classes, gain, plain)
        _log.warning(
            "Weights of %s are given up: on the validation points they have %s, without weights %s.",
            way,
            _described(errors),
            _described(plain),
        )
    return Learned(None, sig, classes, gain, plain)


def learn_for(
    task: Task,
    valid_dataset: Mapping[str, Any] | str | os.PathLike[str],
    kind: str,
    n_threads: int,
    callback: Callback | None = None,
) -> Task:
    """Return a task with learned weights and their sigma, or with the best sigma without weights if they do not help.

    Parameters
    ----------
    task : dict
        A task with validation points.
    valid_dataset : mapping or path-like
        Their dataset.
    kind, callback
        See `learn`.
    n_threads : int
        Number of threads.

    Raises
    ------
    UsageError
        If there are no validation points, or the kind is unknown.
    """
    check_kind(kind, len(task["idxs_valid"]))
    arrays = TaskArrays.of(task)
    dataset = load_dataset(valid_dataset) if isinstance(valid_dataset, str | os.PathLike) else valid_dataset
    factors = conversion(Units.of(dataset), Units.of(task), "validation dataset", "training dataset")
    drawn = take_points(dataset, Properties.of(task).idxs_valid, factors)
    cell = arrays.cell
    if cell is not None and drawn.lattice is not None:
        cell = Cell(drawn.lattice, cell.image_rule)
    to_angstrom = 1.0
    if arrays.r_unit:
        with suppress(ValueError):  # an unknown unit counts as Angstrom
            to_angstrom = _core.length_factor(arrays.r_unit, "Ang")
    system = System(arrays.z, GroupTables.from_perms(arrays.perms), arrays.lam, to_angstrom, n_threads)
    training = Points(arrays.R, arrays.F, arrays.E, arrays.cell)
    learned = learn(system, training, Points(drawn.R, drawn.F, drawn.E, cell), kind, callback)
    found: dict[str, Any] = {**task, "sig": learned.sig, "weights": kind}
    if learned.weights is not None:
        found["desc_weights"], found["weights_gain"] = learned.weights, np.array(learned.gain)
    return cast(Task, found)


def check_kind(kind: str, n_valid: int) -> None:
    """Raise UsageError unless weights of this kind exist, and can be judged by `n_valid` validation points."""
    if kind not in KINDS:
        raise UsageError(f"weights must be one of {', '.join(KINDS)}; got {kind!r}.")
    if kind != "none" and n_valid < 1:
        raise UsageError("Learned weights are judged by validation points: n_valid must be at least 1.")


def minimise(
    evidence: Evidence,
    classes: PairClasses,
    start: float,
    progress: Callable[[int, int, str], object] | None = None,
    prior: float = _PRIOR,
) -> Array:
    """Return logarithms of weights (D,), equal within classes, that minimise an objective (L-BFGS).

    A quadratic term keeps them near their mean: that of normally distributed logarithms with standard deviation
    `prior`, in units of the objective, which is that of one label.

    Parameters
    ----------
    evidence : Evidence
        The objective.
    classes : PairClasses
        Which pairs have one weight.
    start : float
        The logarithm of all weights to start from, -log(sigma).
    progress : callable, optional
        Called with (evaluations, most evaluations, the objective).
    prior : float
        See above.
    """
    from scipy.optimize import minimize

    strength = 1 / (2 * prior**2 * evidence.order)
    n_done, best = 0, (np.inf, np.full(len(classes), start))

    def function(theta: Array) -> tuple[float, Array]:
        nonlocal n_done, best
        value = evidence(theta[classes.of_pair])
        off = theta - theta.mean()
        f = value.f + strength * float(off @ off)
        n_done += 1
        if f < best[0]:
            best = (f, theta.copy())
        if progress is not None:
            progress(n_done, _MAX_EVALUATIONS, f"objective {best[0]:.5f}")
        if not np.isfinite(f):  # a step too far: the line search comes back
            return 1e3, np.zeros_like(theta)
        return f, classes.sums(value.gradient) + 2 * strength * off

    options = {"maxfun": _MAX_EVALUATIONS, "maxiter": _MAX_EVALUATIONS, "ftol": _TOLERANCE, "gtol": 1e-4}
    minimize(function, best[1], jac=True, method="L-BFGS-B", options=options)
    return best[1][classes.of_pair]


class _Judge:
    """Errors on validation points of models of some training points."""

    def __init__(self, system: System, training: Points, validation: Points) -> None:
        self._system, self._training, self._validation = system, training, validation
        self._x, self._g = from_R(training.R, training.cell, system.n_threads)
        self._machine = processor(system.n_threads)

    def __call__(self, weights: Array | None, sig: float) -> Errors:
        """Train with weights (D,), or without, and a length scale."""
        system, points = self._system, self._training
        x, g = (self._x, self._g) if weights is None else weighted(self._x, self._g, weights)
        std = float(np.std(points.F))
        periodic = points.cell is not None
        training = TrainingSet(x, g, system.tables, sig)
        equations = TrainingEquations(points.R, training, system.lam, points.F.ravel() / std, None, periodic)
        alphas = solve_once(equations, self._machine).alphas_F.reshape(len(x), -1)
        native = ModelArrays(
            z=np.asarray(system.z),
            pair_images=system.tables.pair,
            x=x,
            v=jacobian_dot(g, alphas),
            alphas_E=None,
            sig=sig,
            std=std,
            c=0.0,
            image_rule=None if points.cell is None else points.cell.image_rule,
            weights=weights,
        ).native()
        engine = NativeEngine(native)
        E, F = self._predicted(engine, self._validation)
        force = float(np.abs(F - self._validation.F.reshape(len(F), -1)).mean())
        if points.E is None or self._validation.E is None:
            return Errors(force, None)
        offset = float(np.mean(points.E - self._predicted(engine, points)[0]))
        return Errors(force, float(np.abs(E + offset - self._validation.E).mean()))

    def best_sigma(self, progress: Callable[[int, float], object]) -> tuple[float, Errors]:
        """Return the length scale with the smallest error of forces, without weights: downhill on a geometric grid."""
        tried: dict[int, Errors] = {}

        def force(number: int) -> float:
            if number not in tried:
                tried[number] = self(None, self._sigma(number))
                progress(len(tried), self._sigma(min(tried, key=lambda n: tried[n].force)))
            return tried[number].force

        at = 0
        for direction in (1, -1):
            while abs(at) < 16 and force(at + direction) < force(at):
                at += direction
        return self._sigma(at), tried[at]

    @staticmethod
    def _sigma(number: int) -> float:
        return 20.0 * _SIGMA_STEP**number

    def _predicted(self, engine: NativeEngine, points: Points) -> tuple[Array, Array]:
        E, F = engine.predict(points.R, True, points.cell, False, self._system.n_threads)
        return E, F


def _types(system: System, x: Array) -> PairClasses:
    return types(system.tables, system.z, system.to_angstrom / x.mean(axis=0))


def _normalised(theta: Array) -> tuple[Array, float]:
    """Return weights with geometric mean near 1 and the length scale, of four digits, that make up exp(theta)."""
    sig = float(f"{math.exp(-theta.mean()):.4g}")
    return np.exp(theta) * sig, sig


def _spread(n: int, at_most: int) -> IntArray:
    """Return up to `at_most` of n numbers, evenly spread, but at least two where there are two."""
    return np.unique(np.linspace(0, n - 1, max(min(n, at_most), min(n, 2))).astype(np.int64))


def _described(errors: Errors) -> str:
    energy = "" if errors.energy is None else f", of energies {errors.energy:.4g}"
    return f"mean absolute errors of forces {errors.force:.4g}{energy}"
