"""Energies and forces for the frames of any source, by a model or by a calculator of ASE.

>>> from fastgdml.labelling import predict
>>> predict("model.npz", ["trajectory.xyz"], "predictions.xyz")
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .convert import Stage, Work, stream
from .drivers.common import AnyModel, open_model, require_cell
from .errors import DataError, FastGDMLError, UsageError
from .evaluate import Errors, ErrorSums
from .formats import Facts, Frames, ReadOptions
from .formats.frames import difference_of_atoms
from .formats.targets import target_format
from .predict import GDMLPredict
from .progress import Callback
from .reading import Reader, Report, UnitOptions
from .types import Array
from .units import energy_factor, length_factor
from .writing import WriteOptions


@dataclass(frozen=True)
class Asked:
    """Frames to predict, in the units of the model.

    Attributes
    ----------
    frames : Frames
        The frames.
    lattice : ndarray, shape (n, 3, 3), or None
        The lattices to predict in; None is the model's own, or none.
    """

    frames: Frames
    lattice: Array | None

    @property
    def R(self) -> Array:
        """Positions (n, 3 N)."""
        return self.frames.R.reshape(len(self.frames), -1)


@dataclass(frozen=True)
class Wanted:
    """What is predicted of frames, wherever that is.

    Attributes
    ----------
    virial, std : bool
        Whether virials and standard deviations are wanted beside energies and forces.
    """

    virial: bool = False
    std: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in their order."""
        return ("E", "F", *(("virial",) if self.virial else ()), *(("E_std", "F_std") if self.std else ()))

    def predicted(self, predictor: GDMLPredict, R: Array, lattice: Array | None) -> tuple[Array, ...]:
        """Predict them for positions (n, 3 N)."""
        return predictor.predict(R, lattice=lattice, return_virial=self.virial, return_std=self.std)


@dataclass
class Prediction:
    """What `predict` did.

    Attributes
    ----------
    report : Report
        What was read and written.
    errors : Errors
        Deviations from the labels of the input, in the units of `report`; empty dictionaries if it has none.
    std : dict of float
        Standard deviations, if they were predicted, in the units of `report`: root mean squares of 'energy' and
        'force', and 'largest', the largest of a force.
    """

    report: Report
    errors: Errors
    std: dict[str, float] = field(default_factory=dict)


class Elsewhere(Protocol):
    """Where chunks are predicted, if not here: see `fastgdml.cluster.Chunks`."""

    def __call__(
        self, predictor: GDMLPredict, wanted: Wanted, asked: Iterator[Asked]
    ) -> Iterator[tuple[Asked, tuple[Array, ...]]]:
        """Yield chunks with what `Wanted.predicted` returns for them, in their order; few are held at once."""


@dataclass(frozen=True)
class PredictOptions:
    """How to predict.

    Attributes
    ----------
    virial : bool
        Also write virials.
    any_cell : bool
        Evaluate a model of one periodic cell also in other cells.
    max_processes : int or None
        Number of threads; all by default.
    backend : {'cpu', 'gpu', 'auto'}
        Where to predict.
    std : bool
        Also write standard deviations, of a model that has samples for them.
    elsewhere : callable, optional
        Predicts chunks on other machines.
    """

    virial: bool = False
    any_cell: bool = False
    max_processes: int | None = None
    backend: str = "cpu"
    std: bool = False
    elsewhere: Elsewhere | None = None


def predict(
    model: AnyModel,
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    options: PredictOptions | None = None,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Prediction:
    """Predict the frames of sources, and compare with their labels where they have any.

    Parameters
    ----------
    model : path-like, mapping or GDMLPredict
        The model. Its units are those of the results, unless `units` says otherwise.
    sources, target, read, units, write, callback
        As in `fastgdml.convert.convert`. Sources that do not record units are taken to be in those of the model.
    options : PredictOptions, optional
        How to predict.

    Raises
    ------
    DataError
        If a frame has other atoms or another cell than the model, or cannot be evaluated, with its number.
    FileFormatError
        If a file cannot be read or written.
    UsageError
        If options contradict each other or the sources.
    """
    labels = ModelLabels(model, options or PredictOptions(), units or UnitOptions(), target_format(os.fspath(target)))
    # not resumable: the errors are those of all frames
    work = Work("Predicting", prepare=labels.prepare, resumable=False, flow=labels.flow)
    report = stream(sources, target, read, labels.units, write, callback, work)
    return Prediction(report, labels.sums.errors(), labels.std_sums.values())


def label_by_model(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    model: AnyModel,
    options: PredictOptions | None = None,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Make a dataset of geometries, with energies and forces by a model.

    Parameters
    ----------
    sources, target, read, units, write, callback
        As in `fastgdml.convert.convert`; labels that the sources have are replaced.
    model : path-like, mapping or GDMLPredict
        The model.
    options : PredictOptions, optional
        How to predict.
    """
    labels = ModelLabels(model, options or PredictOptions(), units or UnitOptions(), target_format(os.fspath(target)))
    work = Work("Labelling", prepare=labels.prepare, job=_by(model), flow=labels.flow)
    return stream(sources, target, _geometries(read), labels.units, write, callback, work)


def label_by_calculator(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    calculator: str | Callable[[], Any],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Make a dataset of geometries, with energies and forces by a calculator of ASE.

    Parameters
    ----------
    sources, target, read, units, write, callback
        As in `fastgdml.convert.convert`; labels that the sources have are replaced.
    calculator : str or callable
        What makes a calculator: a callable without arguments, or its place as "module:name".

    Notes
    -----
    If a calculation fails or the program is killed, the folder ``TARGET.part`` keeps what is done, for ``resume``.
    """
    labels = CalculatorLabels(calculator, units or UnitOptions(), target_format(os.fspath(target)))
    work = Work("Labelling", prepare=labels.prepare, keep_on_error=True, job=_by(calculator))
    return stream(sources, target, _geometries(read), labels.units, write, callback, work)


def _geometries(read: ReadOptions | None) -> ReadOptions:
    return replace(read or ReadOptions(), use_E=False, use_F=False)


def _by(what: object) -> dict[str, Any]:
    """Return what computes labels, as far as a later run can compare it."""
    return {"by": os.fspath(what) if isinstance(what, str | os.PathLike) else "in memory"}


class StdSums:
    """Sums over standard deviations that come in pieces."""

    def __init__(self) -> None:
        self._n_E = self._n_F = 0
        self._E = self._F = self._largest = 0.0

    def add(self, E_std: Array, F_std: Array) -> None:
        """Take in standard deviations of energies (n,) and forces (n, N)."""
        self._n_E, self._E = self._n_E + E_std.size, self._E + float(np.square(E_std).sum())
        self._n_F, self._F = self._n_F + F_std.size, self._F + float(np.square(F_std).sum())
        self._largest = max(self._largest, float(np.max(F_std, initial=0.0)))

    def values(self) -> dict[str, float]:
        """Return root mean squares, and the largest deviation of a force; nothing where nothing came."""
        if not self._n_F:
            return {}
        rms = {"energy": (self._E / self._n_E) ** 0.5, "force": (self._F / self._n_F) ** 0.5}
        return rms | {"largest": self._largest}


class ModelLabels:
    """Labels frames by a model.

    Attributes
    ----------
    units : UnitOptions
        For the reader, which shall give frames in the units of the model.
    sums : ErrorSums
        Deviations from labels of the frames, in the units of the results.
    std_sums : StdSums
        Standard deviations, likewise.
    """

    def __init__(self, model: AnyModel, options: PredictOptions, units: UnitOptions, kind: str) -> None:
        self._predictor = predictor = open_model(model, options.max_processes, options.backend)
        self._options, self._wanted = options, Wanted(options.virial, options.std)
        if options.std:
            predictor.require_std()
        self._known = bool(predictor.e_unit and predictor.r_unit)
        to_e_unit, to_r_unit = units.to_e_unit, units.to_r_unit
        if kind == "traj":
            to_e_unit, to_r_unit = to_e_unit or "eV", to_r_unit or "Ang"
        if not self._known and (to_e_unit or to_r_unit):
            raise UsageError(
                "The model does not record its units, so nothing can be converted"
                + (": write .xyz or .npz." if kind == "traj" else ": leave out --to.")
            )
        self._out = Facts(e_unit=to_e_unit or predictor.e_unit or None, r_unit=to_r_unit or predictor.r_unit or None)
        self._e = self._r = 1.0
        if self._known:
            self._e = _size(energy_factor, predictor.e_unit, self._out.e_unit)
            self._r = _size(length_factor, predictor.r_unit, self._out.r_unit)
            units = replace(
                units,
                to_e_unit=predictor.e_unit,
                to_r_unit=predictor.r_unit,
                assumed_e_unit=predictor.e_unit,
                assumed_r_unit=predictor.r_unit,
            )
        self.units = units
        self.sums = ErrorSums()
        self.std_sums = StdSums()
        self._where: Callable[[int], str] = str
        self._checked: set[bytes] = set()

    def prepare(self, reader: Reader) -> tuple[Stage, Facts]:
        """Return what labels the frames of a reader, and what to record of them."""
        self._where = reader.where
        facts = replace(self._out, name=reader.facts.name, theory=self._theory() or None, perms=reader.facts.perms)
        return self._label, facts

    def _theory(self) -> str:
        properties: Mapping[str, Any] = self._predictor.native.properties()
        return str(properties["dataset_theory"])

    def flow(self, stage: Stage, chunks: Iterator[Frames]) -> Iterator[Frames]:
        """Label chunks, here by the stage or elsewhere."""
        if self._options.elsewhere is None:
            yield from map(stage, chunks)
            return
        asked = (self._asked(frames) for frames in chunks)
        for one, predicted in self._options.elsewhere(self._predictor, self._wanted, asked):
            yield self._labelled(one.frames, predicted)

    def _label(self, frames: Frames) -> Frames:
        asked = self._asked(frames)
        return self._labelled(frames, self._wanted.predicted(self._predictor, asked.R, asked.lattice))

    def _asked(self, frames: Frames) -> Asked:
        predictor = self._predictor
        if not np.array_equal(frames.z, predictor.z):
            raise DataError(
                f"{self._where(frames.first)}: {difference_of_atoms(predictor.z, frames.z)}, as the model has them."
            )
        return Asked(frames, self._lattice(frames))

    def _labelled(self, frames: Frames, predicted: tuple[Array, ...]) -> Frames:
        found = dict(zip(self._wanted.names, predicted, strict=True))
        E, F = found["E"], found["F"].reshape(frames.R.shape)
        e, r = self._e, self._r
        E_std, F_std = (found["E_std"] * e, found["F_std"] * (e / r)) if self._wanted.std else (None, None)
        if E_std is not None and F_std is not None:
            self.std_sums.add(E_std, F_std)
        result = replace(
            frames,
            R=frames.R * r if r != 1 else frames.R,
            E=E * e,
            F=F * (e / r),
            lattice=None if frames.lattice is None else frames.lattice * r,
            virial=found["virial"] * e if self._wanted.virial else None,
            E_std=E_std,
            F_std=F_std,
        )
        if frames.F is not None:
            self.sums.add_forces(np.asarray(result.F), frames.F * (e / r))
        if frames.E is not None:
            self.sums.add_energies(np.asarray(result.E), frames.E * e)
        return result

    def _lattice(self, frames: Frames) -> npt.NDArray[np.float64] | None:
        """Return the lattice to predict in; None is the model's own, or none."""
        predictor = self._predictor
        if not predictor.periodic:
            if frames.lattice is not None:
                raise DataError(
                    f"{self._where(frames.first)}: it has a cell, but the model is one of a molecule. If the molecule "
                    "is whole in these coordinates, leave the cell out with --no_cell."
                )
            return None
        if frames.lattice is None:
            if predictor.lattice is None:
                raise DataError(f"{self._where(frames.first)}: it has no cell, and the model was trained in several.")
            return None
        if not self._options.any_cell:
            for i, lattice in enumerate(frames.lattice):
                key = lattice.tobytes()
                if key in self._checked:
                    continue
                try:
                    require_cell(predictor, lattice, "Its cell")
                except DataError as error:
                    text = str(error).replace("give any_cell=True", "give --any_cell")
                    raise DataError(f"{self._where(frames.first + i)}: {text}") from None
                if len(self._checked) > 10_000:
                    self._checked.clear()
                self._checked.add(key)
        own = predictor.lattice
        if own is not None and all(np.array_equal(lattice, own) for lattice in frames.lattice[:1]):
            same = bool((frames.lattice == own).all())
            return None if same else frames.lattice
        return frames.lattice


class Calculator:
    """A calculator of ASE.

    Parameters
    ----------
    source : str or callable
        What makes it: a callable without arguments, or its place as "module:name".

    Attributes
    ----------
    name : str
        What to call it.

    Raises
    ------
    UsageError
        If ASE is missing, there is no such thing, or it makes no calculator.
    """

    def __init__(self, source: str | Callable[[], Any]) -> None:
        try:
            import ase  # noqa: F401
        except ImportError:
            raise UsageError("Calculators are those of ASE: pip install 'fastgdml[ase]'") from None
        self.name = source if isinstance(source, str) else getattr(source, "__name__", "calculator")
        make = _factory(source) if isinstance(source, str) else source
        try:
            self._calculator = make()
        except Exception as error:
            raise UsageError(f"{self.name} made no calculator ({type(error).__name__}: {error}).") from error
        self._consistent = "free_energy" in getattr(self._calculator, "implemented_properties", ())

    def __call__(
        self, z: npt.NDArray[Any], R: npt.NDArray[np.float64], lattice: npt.NDArray[np.float64] | None = None
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """Return energy (eV) and forces (N, 3) (eV/Angstrom) of a geometry (Angstrom)."""
        from ase import Atoms

        atoms = Atoms(z, R, cell=None if lattice is None else lattice.T, pbc=lattice is not None)
        atoms.calc = self._calculator
        # the energy whose negative gradient the forces are
        energy = atoms.get_potential_energy(force_consistent=self._consistent)
        return float(energy), np.array(atoms.get_forces(apply_constraint=False), dtype=np.float64)


class CalculatorLabels:
    """Labels frames by a calculator of ASE, one after the other, in eV and Angstrom.

    Attributes
    ----------
    units : UnitOptions
        For the reader.
    """

    def __init__(self, calculator: str | Callable[[], Any], units: UnitOptions, kind: str) -> None:
        self._calculator = Calculator(calculator)
        self._out = Facts(e_unit=units.to_e_unit or "eV", r_unit=units.to_r_unit or "Ang")
        if kind == "traj" and (self._out.e_unit, self._out.r_unit) != ("eV", "Ang"):
            raise UsageError("Trajectories of ASE are in eV and Angstrom; leave out --to.")
        self._e = _size(energy_factor, "eV", self._out.e_unit)
        self._r = _size(length_factor, "Ang", self._out.r_unit)
        self.units = replace(units, assumed_e_unit="eV", to_e_unit="eV", to_r_unit="Ang")
        self._where: Callable[[int], str] = str

    def prepare(self, reader: Reader) -> tuple[Stage, Facts]:
        """Return what labels the frames of a reader, and what to record of them."""
        self._where = reader.where
        theory = self._calculator.name
        return self._label, replace(self._out, name=reader.facts.name, theory=theory, perms=reader.facts.perms)

    def _label(self, frames: Frames) -> Frames:
        E, F = np.empty(len(frames)), np.empty(frames.R.shape)
        for i in range(len(frames)):
            try:
                lattice = None if frames.lattice is None else frames.lattice[i]
                E[i], F[i] = self._calculator(frames.z, frames.R[i], lattice)
            except FastGDMLError:
                raise
            except Exception as error:
                raise DataError(
                    f"{self._where(frames.first + i)}: {self._calculator.name} failed "
                    f"({type(error).__name__}: {error})."
                ) from error
        e, r = self._e, self._r
        lattice = None if frames.lattice is None else frames.lattice * r
        return replace(frames, R=frames.R * r, E=E * e, F=F * (e / r), lattice=lattice)


def _size(factor: Callable[[str, str], float], unit: str, out: str | None) -> float:
    if out is None or out == unit:
        return 1.0
    try:
        return factor(unit, out)
    except DataError as error:
        raise UsageError(str(error)) from None


def _factory(place: str) -> Callable[[], Any]:
    module, _, name = place.partition(":")
    if not module or not name:
        raise UsageError(f"'{place}' names no calculator: give module:name, as ase.calculators.emt:EMT.")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"'{place}' cannot be imported ({error}).") from None
    if not callable(found):
        raise UsageError(f"'{place}' is no function or class that makes a calculator.")
    return found
