"""The loop: a trajectory with the model, calls of the calculator where they are due, a larger model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import SolverError
from ..predict import GDMLPredict
from ..threads import resolve_n_threads
from ..types import Array, IntArray
from ..units import energy_factor, length_factor
from .growing import GrowingModel, Labelled, System
from .options import LearnOptions
from .records import CONTROL, DISPLACED, EARLY, EXTREME, FAILED, HIGH, KNOWN, START, USED, Call, Records, State
from .trajectory import Trajectory

_log = logging.getLogger(__name__)

# Steps between two looks at the standard deviation, and the least from a label to one that is not due.
_LOOK = 10
_GAP = 20
# A geometry is asked for when its deviation is this many times the leave-one-out errors.
_TIMES_LEFT_OUT = 2.0
# Standard deviation of the displacements of the first geometries, in Angstrom.
_DISPLACEMENT = 0.05
# Potential energies of n harmonic degrees of freedom have the mean n kT / 2 and the deviation sqrt(n / 2) kT. Beyond so
# many deviations a geometry does not belong to the temperature, beyond so many times that it is not learned from.
_DEVIATIONS = 8.0
_EXTREME = 3.0
# Steps back in a row: from the first number on with new momenta, at the second it is given up.
_NEW_MOMENTA = 3
_GIVE_UP = 12
# Training points at which the length scale is chosen anew, and between two searches of permutations.
_SIGMA_AT = (10, 20, 40, 80, 160)
_PERMS_EVERY = 10

# Energy (eV) and forces (eV/Angstrom) of positions (Angstrom).
Oracle = Callable[[Array], tuple[float, Array]]
# Energy and forces, in the units of the labels.
Prediction = tuple[float, Array]


@dataclass(frozen=True)
class Errors:
    """Errors of the model on control points, predicted before they were labelled, in the unit of the labels.

    Attributes
    ----------
    n : int
        How many control points are counted.
    mae, rmse : float
        Of components of forces.
    e_mae, e_rmse : float
        Of energies.
    """

    n: int
    mae: float
    rmse: float
    e_mae: float
    e_rmse: float


class Learner:
    """A run, from its records on.

    Parameters
    ----------
    system : System
        What is learned.
    start : ndarray, shape (N, 3)
        The geometry to start from, in Angstrom.
    oracle : callable
        What labels geometries.
    records : Records
        The calls so far.
    options : LearnOptions
        How to learn.
    """

    def __init__(self, system: System, start: Array, oracle: Oracle, records: Records, options: LearnOptions) -> None:
        self.system, self._start, self._oracle = system, start, oracle
        self.records, self._options = records, options
        self._length = length_factor("Ang", system.r_unit)
        self._energy = energy_factor("eV", system.e_unit)
        lattice = None if system.lattice is None else system.lattice / self._length
        o = options
        self._trajectory = Trajectory(system.z, lattice, o.temperature, o.time_step, o.friction)
        n_threads = resolve_n_threads(o.max_processes)
        self.model = GrowingModel(system, _identity(system), o.sig or 10.0, n_std=o.n_std, n_threads=n_threads)
        self._limit = self._f_std = np.nan
        self._predictor: GDMLPredict | None = None
        self._replay()

    # ---- what is known ------------------------------------------------------------------------------------------

    @property
    def n_calls(self) -> int:
        """Number of calls so far."""
        return len(self.records.calls)

    def labelled(self) -> Labelled:
        """Return all labels."""
        return self._labels([call for call in self.records.calls if call.is_labelled])

    def control(self) -> Errors:
        """Return the errors on the last control points."""
        last = self._controls()[-self._options.n_control :]
        if not last:
            return Errors(0, np.nan, np.nan, np.nan, np.nan)
        mae, rmse, energy = np.array([(call.mae, call.rmse, call.e_error) for call in last]).T
        means = mae.mean(), np.sqrt((rmse**2).mean()), np.abs(energy).mean(), np.sqrt((energy**2).mean())
        return Errors(len(last), *(float(mean) for mean in means))

    @property
    def is_reached(self) -> bool:
        """Whether enough control points meet the target."""
        errors = self.control()
        return errors.n == self._options.n_control and errors.mae <= self._options.target_mae

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.is_reached or self.n_calls >= self._options.max_calls

    def _controls(self) -> list[Call]:
        return [call for call in self.records.calls if call.why == CONTROL and call.is_labelled]

    def _labels(self, calls: list[Call]) -> Labelled:
        R, F, E = ([getattr(call, key) for call in calls] for key in ("R", "F", "E"))
        shape = (len(calls), len(self.system.z), 3)
        return Labelled(np.reshape(R, shape), np.reshape(F, shape), np.array(E, dtype=np.float64))

    @property
    def _state(self) -> State:
        return self.records.calls[-1].state

    # ---- the run ------------------------------------------------------------------------------------------------

    def step(self) -> Call:
        """Go to the next geometry that is to be labelled, label it, and learn from it.

        Raises
        ------
        SolverError
            If the first geometry cannot be labelled, or the trajectory breaks again and again.
        """
        if self.n_calls < self._options.n_start:
            return self._first()
        if self._predictor is None:
            self._learn()
        why, survived, state, before = self._advance()
        return self._ask(why, before, state, survived)

    def _first(self) -> Call:
        """Label the geometry given, or a random displacement of it."""
        trajectory, calls = self._trajectory, self.records.calls
        if not calls:
            trajectory.seed(self._options.seed)
            trajectory.displace(self._start, 0.0)
        else:
            state = self._state
            trajectory.set(state.R, state.momenta, state.random)
            # what the calculator could not do is not asked for again
            halvings = sum(call.outcome in (FAILED, EXTREME) for call in calls)
            trajectory.displace(self._start, _DISPLACEMENT / 2**halvings)
        _, _, random = trajectory.get()
        o = self._options
        state = State(self._start, np.zeros_like(self._start), random, 0, o.interval, o.interval)
        if len(calls) == o.n_start - 1:
            trajectory.draw_momenta()
            _, momenta, random = trajectory.get()
            state = replace(state, momenta=momenta, random=random)
        call = self._call(DISPLACED if calls else START, trajectory.atoms.positions.copy(), None, state)
        if call.outcome == FAILED and not calls:
            raise SolverError(f"The calculator failed for the geometry to start from: {call.message}")
        self._keep(call)
        if self.n_calls == o.n_start and sum(call.is_used for call in self.records.calls) < 2:
            raise SolverError(
                f"Of {o.n_start} geometries near that to start from the calculator could do fewer than two "
                f"({call.message or 'their energies are too high'}). Try it by hand first."
            )
        return call

    def _advance(self) -> tuple[str, int, State, Prediction]:
        """Run until a label is due. Returns why, the steps since the last one, the state, and what is predicted."""
        good = self._state
        state = replace(good)
        trajectory = self._trajectory
        while True:
            trajectory.set(good.R, good.momenta, state.random)
            if state.n_back >= _NEW_MOMENTA:
                trajectory.draw_momenta()
            survived, left = 0, state.due
            while True:
                n = min(_LOOK, left)
                if not trajectory.run(n):
                    break
                survived, left = survived + n, left - n
                energy, forces, self._f_std = trajectory.look()
                if not abs(energy - self._lowest()) <= _EXTREME * self._energy_limit():
                    break
                early = survived >= _GAP and self._f_std > self._limit
                if left == 0 or early:
                    R, momenta, random = trajectory.get()
                    is_control = left == 0 and state.stride == self._options.interval
                    reached = State(R, momenta, random, good.step + survived, state.stride, left, state.n_back)
                    return CONTROL if is_control else EARLY, survived, reached, (energy, forces)
            _, _, random = trajectory.get()
            state = self._back(replace(state, random=random), survived)

    def _ask(self, why: str, before: Prediction, reached: State, survived: int) -> Call:
        """Label where the trajectory is, and decide from where it goes on."""
        call = self._call(why, reached.R, before, reached)
        if call.outcome in (USED, KNOWN):
            if reached.due == 0:
                stride = min(2 * reached.stride, self._options.interval)
                reached = replace(reached, stride=stride, due=stride)
            state = replace(reached, n_back=0)
        else:
            good = self._state
            back = replace(good, random=reached.random, n_back=reached.n_back)
            state = self._back(back, survived)
        call = replace(call, state=state)
        self._keep(call)
        return call

    def _back(self, state: State, survived: int) -> State:
        """Return the state that a step back leads to: the next label is due halfway."""
        if state.n_back + 1 >= _GIVE_UP:
            raise SolverError(
                f"The trajectory broke {_GIVE_UP} times in a row from the same geometry, after {survived} steps the "
                "last time: the molecule decomposes at this temperature, or the calculator fails near this geometry. "
                "What was labelled is kept. Try a lower temperature or a smaller time step."
            )
        stride = max(1, survived // 2)
        return replace(state, stride=stride, due=stride, n_back=state.n_back + 1)

    def _call(self, why: str, position: Array, before: Prediction | None, state: State) -> Call:
        """Call the calculator, and say what came of it."""
        before = before or (np.nan, np.full(position.shape, np.nan))
        begin = time.perf_counter()
        message = ""
        E, F = np.nan, np.full(position.shape, np.nan)
        try:
            energy, forces = self._oracle(position)
            if np.shape(forces) != position.shape or not (np.isfinite(energy) and np.isfinite(forces).all()):
                raise ValueError("energy or forces are not finite, or of another shape")
            E, F = energy * self._energy, forces * (self._energy / self._length)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
        return Call(
            number=self.n_calls + 1,
            why=why,
            outcome=FAILED if message else self._outcome(E),
            R=position * self._length,
            E=E,
            F=F,
            mae=float(np.abs(F - before[1]).mean()),
            rmse=float(np.sqrt(((F - before[1]) ** 2).mean())),
            e_error=before[0] - E,
            f_std=self._f_std,
            limit=self._limit,
            seconds=time.perf_counter() - begin,
            message=message,
            n_train=len(self.model),
            sig=self.model.sig,
            perms=self.model.perms,
            state=state,
        )

    def _outcome(self, energy: float) -> str:
        if not self.n_calls:
            return USED
        excess = (energy - self._lowest()) / self._energy_limit()
        return USED if excess <= 1 else HIGH if excess <= _EXTREME else EXTREME

    def _keep(self, call: Call) -> None:
        """Write a call, and learn from it."""
        if call.is_used and self._predictor is not None and not self.model.add(self._labels([call])):
            call = replace(call, outcome=KNOWN)
        self.records.append(call)
        if call.is_used and self._predictor is not None:
            self._adapt()
            self._learn()

    # ---- the model ----------------------------------------------------------------------------------------------

    def _replay(self) -> None:
        """Grow the model as it had grown when the last call was made; the state is in the record of that."""
        calls = self.records.calls
        if len(calls) < self._options.n_start:
            return
        used = self._labels([call for call in calls if call.is_used])
        self.model.set_kernel(calls[-1].perms, calls[-1].sig)
        self.model.add(used)
        if calls[-1].is_used or len(calls) == self._options.n_start:
            self._adapt()

    def _adapt(self) -> None:
        """Choose permutations and length scale anew, where it is time."""
        n, model = len(self.model), self.model
        perms: IntArray = model.perms
        if self._options.use_sym and n % _PERMS_EVERY == 0:
            perms = model.found_perms()
            if perms is not model.perms:
                _log.info("%d training points: %d permutations of like atoms.", n, len(perms))
        model.set_kernel(perms, model.sig)
        if self._options.sig is None and n in _SIGMA_AT:
            sig = model.best_sigma()
            if sig != model.sig:
                _log.info("%d training points: sigma %g.", n, sig)
            model.set_kernel(perms, sig)

    def _learn(self) -> None:
        """Make the model of the points so far the one that the trajectory follows."""
        if not len(self.model):
            self.model.add(self._labels([call for call in self.records.calls if call.is_used]))
            self._adapt()
        entries = self.model.model()
        self._predictor = GDMLPredict(entries, max_processes=self.model.n_threads)
        self._trajectory.follow(self._predictor)
        # of each point, on the atom where it is largest
        left_out: Any = np.sqrt((entries["loo_f"] ** 2).mean(axis=2)).max(axis=1)
        self._limit = _TIMES_LEFT_OUT * float(np.sqrt((left_out**2).mean()))

    # ---- energies -----------------------------------------------------------------------------------------------

    def _lowest(self) -> float:
        return min(call.E for call in self.records.calls if call.is_labelled)

    def _energy_limit(self) -> float:
        """Return how far above the lowest energy the temperature reaches."""
        from ase.units import kB

        n = 3 * len(self.system.z) - (6 if self.system.lattice is None else 3)
        n = max(n, 1)
        return kB * self._options.temperature * self._energy * (n / 2 + _DEVIATIONS * np.sqrt(n / 2))


def _identity(system: System) -> IntArray:
    return np.arange(len(system.z), dtype=np.int64)[None, :]
