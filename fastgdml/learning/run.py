"""From one geometry and a calculator to a model: see `learn`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import memory
from ..dataset import create_dataset, save_dataset
from ..errors import DataError, UsageError
from ..formats import ReadOptions
from ..formats.frames import formula
from ..labelling import Calculator
from ..model import Model, save_model
from ..npz import DATASET, MODEL, TEXT, path_type, require_target
from ..progress import Callback, Step
from ..reading import Reader, UnitOptions
from ..task import Task
from ..task_folder import locked
from ..train import GDMLTrain
from ..types import Array
from ..units import Units, energy_factor, length_factor
from .growing import System, task_of
from .learner import Errors, Learner
from .options import LearnOptions
from .records import Call, Records
from .report import write_calls, write_report

_log = logging.getLogger(__name__)

DATASET_FILE, CALLS_FILE, REPORT_FILE = "dataset.npz", "calls.csv", "report.md"


@dataclass(frozen=True)
class Files:
    """Where a run reads and writes.

    Attributes
    ----------
    folder : path-like or None
        What is kept of the run; by default beside the model, NAME-learn.
    overwrite : bool
        Replace an existing model that is not of this run.
    name, theory : str or None
        To record; by default the formula, and the name of the calculator.
    read : ReadOptions
        How to read the geometry to start from.
    r_unit : str or None
        Unit of its lengths, if its file does not record it; otherwise Angstrom.
    e_unit, to_r_unit : str
        Units of labels and model.
    """

    folder: str | os.PathLike[str] | None = None
    overwrite: bool = False
    name: str | None = None
    theory: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    r_unit: str | None = None
    e_unit: str = "kcal/mol"
    to_r_unit: str = "Ang"


@dataclass(frozen=True)
class Learned:
    """What came of a run.

    Attributes
    ----------
    model, dataset, calls, report : Path
        The files.
    reached : bool
        Whether the control points met the target.
    control : Errors
        Errors on them.
    n_calls, n_train : int
        Calls of the calculator, in all runs of this folder, and training points of the model.
    sig : float
        Length scale.
    n_perms : int
        Permutations.
    picoseconds : float
        Length of the trajectory, without what was taken back.
    unit : str
        Of forces.
    """

    model: Path
    dataset: Path
    calls: Path
    report: Path
    reached: bool
    control: Errors
    n_calls: int
    n_train: int
    sig: float
    n_perms: int
    picoseconds: float
    unit: str


def learn(
    start: str | os.PathLike[str],
    target: str | os.PathLike[str],
    calculator: str | Callable[[], Any],
    options: LearnOptions | None = None,
    files: Files | None = None,
    callback: Callback | None = None,
    on_call: Callable[[Call, Errors], object] | None = None,
) -> Learned:
    """Learn a model on the fly; see docs/howto/learn.md.

    Parameters
    ----------
    start : path-like
        File of one geometry, of any format that fastgdml reads.
    target : path-like
        The model, npz.
    calculator : str or callable
        What makes a calculator of ASE: a callable without arguments, or its place as "module:name".
    options : LearnOptions, optional
        How to learn.
    files : Files, optional
        Where to read and write, and in which units.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.
    on_call : callable, optional
        Receives each call of the calculator, and the errors on the control points so far.

    Returns
    -------
    Learned

    Raises
    ------
    UsageError
        If the file holds several geometries, there is no such calculator, or the folder is of another run.
    DataError, FileFormatError
        If a file cannot be used.
    SolverError
        If the calculator cannot do the geometry to start from, or the trajectory breaks again and again.

    Notes
    -----
    Each call is on disk as soon as the calculator has answered. Called again with the same arguments after an
    interruption of any kind, this goes on with the next call; `target_mae` and `max_calls` may be others.
    """
    options, files = options or LearnOptions(), files or Files()
    target = Path(target)
    if target.suffix != ".npz":
        raise UsageError(f"'{target}' must end in .npz: it is a model.")
    oracle = Calculator(calculator)
    system, position = _system(start, oracle.name, files)
    lattice = None if system.lattice is None else system.lattice * length_factor(system.r_unit, "Ang")
    folder = Path(files.folder) if files.folder is not None else target.with_name(f"{target.stem}-learn")
    require_target(target, MODEL)
    with locked(folder, make=True, option="-o, --folder"):
        if path_type(target) == "file" and not files.overwrite and not any(folder.glob("call-*.npz")):
            raise UsageError(f"'{target}' exists. Give --overwrite to replace it, or another name.")
        for name, kind in ((DATASET_FILE, DATASET), (CALLS_FILE, TEXT), (REPORT_FILE, TEXT)):
            require_target(folder / name, kind)
        records = Records(folder, _settings(system, position, oracle.name, options))
        learner = Learner(system, position, lambda R: oracle(system.z, R, lattice), records, options)
        _run(learner, options, callback, on_call)
        return _write(learner, target, options)


def _run(
    learner: Learner,
    options: LearnOptions,
    callback: Callback | None,
    on_call: Callable[[Call, Errors], object] | None,
) -> None:
    _warn_of_memory(learner.system, options.max_calls)
    if learner.n_calls:
        _log.info("Going on after %d calls of the calculator; none is repeated.", learner.n_calls)
    step = Step(callback, "Learning", options.max_calls)
    try:
        while not learner.is_finished:
            call = learner.step()
            errors = learner.control()
            if call.message:
                _log.warning("Call %d failed (%s): the trajectory steps back.", call.number, call.message)
            step(learner.n_calls, options.max_calls + 1, f"error {errors.mae:.3g}, target {options.target_mae:g}")
            if on_call is not None:
                on_call(call, errors)
    finally:
        write_calls(learner.records.folder / CALLS_FILE, learner.records.calls)
    step.done(f"{learner.n_calls:,} calls")


def _warn_of_memory(system: System, n_points: int) -> None:
    """Warn if the largest model would not fit: factor and inverse, and the packed factor of the last training."""
    n = n_points * (3 * len(system.z) - (6 if system.lattice is None else 3))
    needed, free = 8 * 1.5 * n**2 / 2**30, memory.available() / 2**30
    if needed > free:
        _log.warning(
            "%d points would need %.1f GB; %.1f GB are free: --max-calls is too large.", n_points, needed, free
        )


def _write(learner: Learner, target: Path, options: LearnOptions) -> Learned:
    """Write dataset, model and report."""
    system, grown, folder = learner.system, learner.model, learner.records.folder
    labelled = learner.labelled()
    dataset = create_dataset(
        system.name,
        system.theory,
        system.z,
        labelled.R,
        labelled.F,
        labelled.E,
        system.lattice,
        system.r_unit,
        system.e_unit,
    )
    dataset["perms"] = grown.perms
    calls = learner.records.calls
    used = np.array([call.is_used for call in calls if call.is_labelled])
    idxs = np.flatnonzero(used)
    task = task_of(system, labelled[idxs], grown.perms, grown.sig, grown.lam)
    task = cast(Task, {**task, "idxs_train": idxs, "md5_train": dataset["md5"], "seed": options.seed})
    model = GDMLTrain(max_processes=options.max_processes).train(task, solver="closed", n_std=options.n_std)
    errors = learner.control()
    model |= cast(Model, {"f_err_mae": errors.mae, "f_err_rmse": errors.rmse})
    model |= cast(Model, {"e_err_mae": errors.e_mae, "e_err_rmse": errors.e_rmse})
    learned = Learned(
        model=target,
        dataset=folder / DATASET_FILE,
        calls=folder / CALLS_FILE,
        report=folder / REPORT_FILE,
        reached=learner.is_reached,
        control=errors,
        n_calls=learner.n_calls,
        n_train=len(idxs),
        sig=grown.sig,
        n_perms=len(grown.perms),
        picoseconds=calls[-1].state.step * options.time_step / 1000,
        unit=Units(system.e_unit, system.r_unit).force,
    )
    save_dataset(learned.dataset, dataset)
    save_model(target, model)
    write_report(learned.report, _facts(learner, learned, options), calls)
    return learned


def _facts(learner: Learner, learned: Learned, options: LearnOptions) -> list[tuple[str, str]]:
    system, errors = learner.system, learned.control
    met = "meets" if learned.reached else "does not meet"
    rows = [
        (
            "System",
            f"{formula(system.z.tolist())}, {len(system.z)} atoms"
            + (", periodic" if system.lattice is not None else ""),
        ),
        ("Calculator", system.theory),
        ("Trajectory", f"{learned.picoseconds:.2f} ps at {options.temperature:g} K, steps of {options.time_step:g} fs"),
        (
            "Model",
            f"{learned.n_train} points, sigma {learned.sig:g}, {learned.n_perms} permutations: '{learned.model}'",
        ),
        (
            "Force error",
            f"MAE {errors.mae:.4f}, RMSE {errors.rmse:.4f} {learned.unit}, on the last {errors.n} control points",
        ),
        ("Energy error", f"MAE {errors.e_mae:.4f}, RMSE {errors.e_rmse:.4f} {system.e_unit}"),
        ("Target", f"MAE {options.target_mae:g} {learned.unit}: the model {met} it"),
    ]
    return rows


def _settings(system: System, position: Array, calculator: str, options: LearnOptions) -> dict[str, Any]:
    """Return what must not change from one run in a folder to the next."""
    free = ("target_mae", "max_calls", "max_processes", "n_control")
    own = {key: value for key, value in asdict(options).items() if key not in free}
    lattice = None if system.lattice is None else np.round(system.lattice, 10).tolist()
    return {
        "atoms": system.z.tolist(),
        "start": np.round(position, 10).tolist(),
        "lattice": lattice,
        "calculator": calculator,
        "units": [system.e_unit, system.r_unit],
        **own,
    }


def _system(start: str | os.PathLike[str], calculator: str, files: Files) -> tuple[System, Array]:
    """Read the geometry to start from. Returns the system, and positions in Angstrom."""
    for factor, unit in ((energy_factor, files.e_unit), (length_factor, files.to_r_unit)):
        try:
            factor(unit, unit)
        except DataError as error:
            raise UsageError(str(error)) from None
    units = UnitOptions(r_unit=files.r_unit, to_r_unit="Ang", assumed_r_unit="Ang")
    reader = Reader([start], files.read, units)
    n, first = 0, None
    try:
        for frames in reader.chunks():
            first = frames if first is None else first
            n += len(frames)
    finally:
        reader.close()
    if first is None or n == 0:
        raise DataError(f"{os.fspath(start)} holds no geometry.")
    if n > 1:
        raise UsageError(
            f"{os.fspath(start)} holds {n:,} geometries; learning starts from one. Write the one that you mean to a "
            "file of its own, as with 'fastgdml dataset thin', or train on them all ('fastgdml all') if labelled."
        )
    if len(first.z) < 2:
        raise DataError(f"{os.fspath(start)} holds a single atom: there is nothing to learn.")
    size = length_factor("Ang", files.to_r_unit)
    lattice = None if first.lattice is None else first.lattice[0] * size
    name = files.name or reader.facts.name or formula(first.z.tolist())
    theory = files.theory or calculator
    return System(first.z, lattice, files.e_unit, files.to_r_unit, name, theory), first.R[0]
