"""The search for the length scale sigma: tasks in a folder, one model trained for each, the best of them selected.

    directory = create("ethanol", 200, 500, range(10, 60, 10))
    run(directory, "ethanol")
    model_file = select(directory)

The folder is the state: every step goes on where it was interrupted, also by a kill. What happens is told as events
(`fastgdml.search_events`), in the order of sigma, to whoever wants to know.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from .cell import image_rule_of
from .dataset import Dataset, check_same_system, load_dataset, part_of
from .errors import FileFormatError, SolverError, UsageError
from .evaluate import validation_points
from .exchange import require_update, update_model
from .files import path_type
from .length_scale import AUTO, LADDER, NARROW, START, WIDE, downhill
from .model import Model, is_validated, load_model
from .npz import MODEL, TASK, kind_of, load_npz, require_kind, require_target
from .overlap import is_drawn_from, require_drawn_from
from .properties import Outcome, Properties
from .sampling import new_seed
from .search_events import (
    ModelKept,
    ModelTrained,
    ModelValidated,
    OnEvent,
    SearchBegun,
    SearchEnded,
    SearchResumed,
    SigmaFound,
    SigmaTried,
    TaskBegun,
    TaskSkipped,
    TasksWritten,
    TrainingResumed,
    TrialsBegun,
    nobody,
    progress_of,
)
from .search_jobs import Executor, Future, Trainer, checkpoint_saver, train_and_validate
from .selection import compared_error, forget, remove, select, selected
from .sigma_trials import Trials, representative_part
from .task import Task, load_task, part_of_task, save_task
from .task_creation import TaskOptions
from .task_folder import (
    checkpoint_file_name,
    delete,
    delete_search,
    files_of,
    list_files,
    locked,
    model_file_name,
    require_folder,
    task_dir_name,
    task_file_name,
)
from .train import GDMLTrain

__all__ = ["SearchOptions", "Trainer", "create", "remove", "resume", "run", "select", "selected"]

_log = logging.getLogger(__name__)

# What a training takes from models of other length scales.
_OF_NEAR = ("alphas_F", "alphas_E", "sig", "idxs_train", "md5_train", "idxs_valid", "md5_valid", "perms")

DEFAULT_SIGMAS = tuple(range(10, 100, 10))

Source = Mapping[str, Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class SearchOptions(TaskOptions):
    """Parameters that the tasks of a search share; `GDMLTrain.create_task` explains those that are not listed here.

    Attributes
    ----------
    sig : float
        Without effect: each task has its own.
    weights : {'none', 'orbits', 'types'}
        With learned weights of pairs there is one task, with the sigma that belongs to them: no others are tried.
    seed : int, optional
        Seed of the draw of points; a new one by default, recorded in the tasks.
    valid_dataset : mapping or path-like, optional
        Dataset to draw validation points from, by default the one for training.
    directory : path-like, optional
        Folder of the search, by default one of sgdml's name in the current folder.
    overwrite : bool
        Whether to delete an earlier search in it, instead of going on with it.
    """

    sig: float = DEFAULT_SIGMAS[0]
    weights: str = "none"
    valid_dataset: Source | None = None
    directory: str | os.PathLike[str] | None = None
    overwrite: bool = False


# ---- tasks ------------------------------------------------------------------------------------------------------


def create(
    dataset: Source,
    n_train: int,
    n_valid: int,
    sigmas: Sequence[float] | str = DEFAULT_SIGMAS,
    options: SearchOptions | None = None,
    on_event: OnEvent = nobody,
    check: Callable[[Task, Path], object] | None = None,
) -> Path:
    """Write the tasks of a search, or complete those of an interrupted one.

    Parameters
    ----------
    dataset : mapping or path-like
        The dataset to draw from; what `load_dataset` takes.
    n_train, n_valid : int
        Number of training and validation points.
    sigmas : sequence of float or 'auto'
        Length scales to try. 'auto': `run` finds them, and writes further tasks as it needs them; there is one to begin
        with.
    options : SearchOptions, optional
        Everything else.
    on_event : callable, optional
        Gets the events.
    check : callable, optional
        Sees a task and the folder before anything is written or deleted, and may raise.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError
        If there is another search in the folder, or somebody works in it; or as `GDMLTrain.create_task`.
    DataError
        If the datasets cannot be used or do not belong to the same system.
    """
    options = options or SearchOptions()
    if isinstance(sigmas, str) and sigmas != AUTO:
        raise UsageError(f"sigmas must be numbers or '{AUTO}'; got {sigmas!r}.")
    finds_sig = isinstance(sigmas, str) and options.weights == "none"
    sigs = [LADDER[START]] if isinstance(sigmas, str) else sorted(set(sigmas))
    if not sigs:
        raise UsageError("There are no length scales to try: sigmas is empty.")
    training, validation = _both(dataset, options.valid_dataset)
    flags = (options.use_sym, options.use_E, options.use_E_cstr)
    if options.directory is not None and not os.fspath(options.directory):
        raise UsageError("The name of the --task_dir is empty.")
    directory = Path(options.directory or task_dir_name(training, n_train, *flags))
    require_folder(directory)
    with locked(directory, make=True):
        existing = [] if options.overwrite else list_files(directory, "task")
        if existing:
            template = load_task(existing[0])
            sigs = _sigmas_of(template, options, sigs)
            asked = (n_train, n_valid, None if finds_sig else sigs)
            _require_same_search(template, existing, asked, options, (training, validation))
            on_event(SearchResumed(directory))
        else:
            template = _new_task(training, validation, (n_train, n_valid), replace(options, sig=sigs[0]), on_event)
            sigs = _sigmas_of(template, options, sigs)
            if finds_sig:
                template["sig_search"] = np.array(AUTO)
        if check is not None:
            check(template, directory)
        tasks = [{**template, "sig": sig} for sig in sigs]
        for task in tasks:
            task.pop("tried_training", None)
            require_kind(directory / task_file_name(task), TASK)
        if options.overwrite:
            delete_search(directory)
        if not existing:  # also what is left of a search whose deletion was cut at its very end
            forget(directory)
        missing = [task for task in tasks if path_type(directory / task_file_name(task)) == "nothing"]
        for task in missing:
            save_task(directory / task_file_name(task), task)
    on_event(TasksWritten(directory, len(missing), len(tasks), n_train))
    return directory


def _sigmas_of(template: Task, options: SearchOptions, sigmas: list[float]) -> list[float]:
    """Return the length scales of a search: of one with learned weights, that of its task."""
    return sigmas if options.weights == "none" else [Properties.of(template).sig]


def _both(dataset: Source, valid_dataset: Source | None) -> tuple[Dataset, Dataset]:
    training = _opened(dataset)
    validation = training if valid_dataset is None else _opened(valid_dataset)
    check_same_system(training, validation, "training dataset", "validation dataset")
    return training, validation


def _opened(dataset: Source) -> Dataset:
    return load_dataset(dataset) if isinstance(dataset, str | os.PathLike) else dataset  # type: ignore[return-value]


def _new_task(
    training: Dataset, validation: Dataset, sizes: tuple[int, int], options: SearchOptions, on_event: OnEvent
) -> Task:
    if options.use_E and "E" not in validation:
        raise UsageError("The validation dataset has no energies (key 'E'); use --no_E or another dataset.")
    seed = new_seed() if options.seed is None else options.seed
    several = np.ndim(training["lattice"]) == 3 if "lattice" in training else None
    on_event(SearchBegun(seed, options.seed is not None, "E" in training, several))
    return GDMLTrain().create_task(
        training,
        sizes[0],
        validation,
        sizes[1],
        options.sig,
        lam=options.lam,
        perms=options.perms,
        use_sym=options.use_sym,
        use_E=options.use_E,
        use_E_cstr=options.use_E_cstr,
        callback=progress_of(on_event),
        seed=seed,
        max_group_size=options.max_group_size,
        image_rule=options.image_rule,
        weights=options.weights,
    )


def _require_same_search(
    template: Task,
    existing: list[Path],
    asked: tuple[int, int, list[float] | None],
    options: SearchOptions,
    datasets: tuple[Dataset, Dataset],
) -> None:
    """Raise UsageError unless the tasks found are part of the search that is asked for."""
    known, differences = Properties.of(template), []
    n_train, n_valid, sigs = asked
    if not is_drawn_from(template, "train", datasets[0]):
        differences.append(f"training dataset (fingerprint {known.md5_train})")
    else:
        check_same_system(template, datasets[0], "task", "training dataset")
    if not is_drawn_from(template, "valid", datasets[1]):
        differences.append(f"validation dataset (fingerprint {known.md5_valid})")
    pairs: dict[str, tuple[object, object]] = {
        "n_train": (len(known.idxs_train), n_train),
        "n_valid": (len(known.idxs_valid), n_valid),
        "--lam": (known.lam, options.lam),
        "--gdml": (not template["use_sym"], not options.use_sym),
        "--no_E": (not known.use_E, not options.use_E),
        "--E_cstr": (known.constrain_E, options.use_E_cstr),
        "--weights": (known.weights, options.weights),
    }
    if "lattice" in template:
        pairs["--image_rule"] = (image_rule_of(template), options.image_rule)
    if options.seed is not None:
        pairs["--seed"] = (-1 if known.seed is None else known.seed, options.seed)
    differences += [f"{key} ({found}, not {wanted})" for key, (found, wanted) in pairs.items() if found != wanted]
    if options.perms is not None and not np.array_equal(np.atleast_2d(options.perms), template["perms"]):
        differences.append("--perms_from")
    there = {float(load_npz(path, {"sig"})["sig"]) for path in existing}
    extra = sorted(there - set(sigs or ()))
    if known.finds_sig != (sigs is None):
        differences.append(f"--sig ({AUTO}, not numbers)" if known.finds_sig else f"--sig (numbers, not {AUTO})")
    elif extra and sigs is not None:
        differences.append(f"--sig (tasks for {', '.join(f'{sig:g}' for sig in extra)} are there)")
    if differences:
        raise UsageError(
            f"'{existing[0].parent}' holds an unfinished search that differs in {'; '.join(differences)}. Give -o to "
            "overwrite it, the same arguments to continue it, or another --task_dir."
        )


# ---- models -----------------------------------------------------------------------------------------------------


def run(
    directory: str | os.PathLike[str],
    dataset: Source,
    trainer: Trainer | None = None,
    on_event: OnEvent = nobody,
    executor: Executor | None = None,
    *,
    lazy: bool = False,
    overwrite: bool = False,
    stop_early: bool = True,
) -> list[Path]:
    """Train one model for each task, in ascending order of sigma, until the error rises (`Trainer.by`: which).

    A search that finds its length scales ('auto') goes downhill among round numbers instead, first with a quarter of
    the points where these are enough, until the smallest error lies between two larger ones.

    Models that are there already are kept. The iterative solver leaves checkpoints beside them, also on Ctrl-C. It
    begins with the models of other length scales.

    Parameters
    ----------
    directory : path-like
        Folder with tasks, or one task file: a model that has no competitors is not validated.
    dataset : mapping or path-like
        The dataset that validation points were drawn from; what `load_dataset` takes.
    trainer : Trainer, optional
        How to train.
    on_event : callable, optional
        Gets the events: those of a task after those of the one before it, with an executor too.
    executor : Executor, optional
        Trains all tasks elsewhere, at the same time. Files are written here, in the order of sigma, the same ones as
        without it, but for iterations, which begin with zero: what lies behind the rise of the error is dropped. There
        are no checkpoints. What 'auto' needs next is known when the last model is there: one is trained at a time.
    lazy : bool
        Skip tasks that were tried before and have no model.
    overwrite : bool
        Train again where there is a model.
    stop_early : bool
        Stop when the error rises; else all tasks are trained. Without effect on 'auto'.

    Returns
    -------
    list of Path
        The model files, in ascending order of sigma.

    Raises
    ------
    UsageError
        If the dataset is another one, a model is there that belongs to another search, or tasks are being written or
        a model selected by somebody else now.
    """
    paths = files_of(directory, "task")
    finds_sig = path_type(directory) == "directory" and Properties.of(load_task(paths[0])).finds_sig
    search = _Search(paths, _opened(dataset), trainer or Trainer(), on_event, finds_sig, lazy=lazy, overwrite=overwrite)
    search.stops_early = stop_early
    with locked(paths[0].parent, shared=True):
        for path in paths:
            if path_type(path) == "nothing":
                raise FileFormatError(f"{path} has just been deleted by another fastgdml.")
        if finds_sig:
            search.find(executor)
        else:
            search.run(executor)
    several = finds_sig or len(paths) > 1
    return list_files(paths[0].parent, "model") if several else [search.tasks[0].model_path]


@dataclass(frozen=True)
class _Work:
    """A task to train, with its files and its validation points (None: it has no competitors)."""

    task: Task
    path: Path
    model_path: Path
    validation: Dataset | None


class _Search:
    """A run over the tasks of a search."""

    def __init__(
        self,
        paths: list[Path],
        dataset: Dataset,
        trainer: Trainer,
        on_event: OnEvent,
        finds_sig: bool,
        *,
        lazy: bool,
        overwrite: bool,
    ) -> None:
        self._trainer, self._on_event, self._lazy, self._overwrite = trainer, on_event, lazy, overwrite
        self._alone = len(paths) == 1 and not finds_sig
        self._near: list[Mapping[str, Any]] = []
        self.stops_early = True
        self._dataset = dataset
        self._points: tuple[tuple[bytes, ...], Dataset] | None = None
        self.tasks = [self._work(path) for path in paths]

    def _work(self, path: Path) -> _Work:
        task = load_task(path)
        check_same_system(task, self._dataset, f"task {path}", "validation dataset")
        require_drawn_from(task, "valid", self._dataset, str(path))
        needed = not self._alone or self._trainer.needs_validation
        return _Work(task, path, path.with_name(model_file_name(task)), self._validation(task) if needed else None)

    def _validation(self, task: Task) -> Dataset:
        """Return the validation points of a task; those of the tasks of one search are found once."""
        known = Properties.of(task)
        key = (known.idxs_train.tobytes(), known.idxs_valid.tobytes(), known.md5_train.encode())
        if self._points is None or self._points[0] != key:
            self._points = key, part_of(self._dataset, validation_points(task, self._dataset))
        return self._points[1]

    def run(self, executor: Executor | None) -> None:
        """Train, in order, and stop early."""
        futures = {} if executor is None else self._submitted(executor)
        gdml_train = self._trainer.start()
        previous: float | None = None
        try:
            for i, work in enumerate(self.tasks):
                known = Properties.of(work.task)
                sizes = (len(known.idxs_train), len(known.idxs_valid))
                self._on_event(TaskBegun(i + 1, len(self.tasks), known.sig, *sizes, work.path))
                model = self._model(work, futures.get(i), gdml_train)
                if model is None:
                    self._on_event(TaskSkipped(known.sig, work.path))
                    continue
                if self._alone:
                    break
                error = compared_error(model, self._trainer.by)
                if previous is not None and error > previous and self.stops_early:
                    self._on_event(SearchEnded(len(self.tasks) - i - 1))
                    break
                previous = error
        finally:
            for future in futures.values():
                future.cancel()

    def find(self, executor: Executor | None) -> None:
        """Find the length scale with the smallest error, each trial in its turn."""
        gdml_train, first = self._trainer.start(), self.tasks[0]
        by = self._trainer.by
        trials = Trials(first.path.parent, first.task, anew=self._overwrite, by=by)
        last: list[SolverError] = []
        number = 0

        def error_of_part(sig: float) -> float:
            trial = trials.get(len(part["R_train"]), sig)
            if trial is None:
                try:
                    model = self._tried({**part, "sig": sig}, first.validation, executor, gdml_train)
                    trial = SigmaTried(len(part["R_train"]), sig, compared_error(model, by), by)
                except SolverError as error:
                    trial = self._failed(len(part["R_train"]), sig, error)
                trials.add(trial)
            self._on_event(trial)
            return math.inf if trial.error is None else trial.error

        def error(sig: float) -> float:
            nonlocal number
            number += 1
            work = self._with_sigma(first, sig)
            known = Properties.of(work.task)
            n_train = len(known.idxs_train)
            self._on_event(TaskBegun(number, None, sig, n_train, len(known.idxs_valid), work.path))
            future = None
            if executor is not None and not self._is_there(work) and not self._is_skipped(work):
                future = executor.submit(train_and_validate, self._trainer, work.task, work.validation, True)
            trial = SigmaTried(n_train, sig, None, by)
            try:
                model = self._model(work, future, gdml_train)
                if model is None:
                    self._on_event(TaskSkipped(sig, work.path))
                else:
                    trial = SigmaTried(n_train, sig, compared_error(model, by), by)
            except SolverError as problem:
                last.append(problem)
                trial = self._failed(n_train, sig, problem)
            trials.add(trial)
            return math.inf if trial.error is None else trial.error

        start, step, direction = START, WIDE, 1
        points = representative_part(first.task)
        if points is not None:
            part = part_of_task(first.task, points)
            self._on_event(TrialsBegun(len(points), len(first.task["R_train"])))
            # Smaller ones first: with them trainings take less time.
            start, step, direction = downhill(error_of_part, START, WIDE), NARROW, -1
        best = LADDER[downhill(error, start, step, direction)]
        found = trials.get(len(first.task["R_train"]), best)
        if last and (found is None or found.error is None):
            raise last[-1]
        self._on_event(SigmaFound(best, trials.all))

    def _failed(self, n_train: int, sig: float, error: SolverError) -> SigmaTried:
        _log.warning("There is no model with sigma %g: %s", sig, error)
        return SigmaTried(n_train, sig, None, self._trainer.by)

    def _tried(self, task: Task, validation: Dataset | None, executor: Executor | None, gdml_train: GDMLTrain) -> Model:
        """Train a task with a part of the points, which leaves nothing behind, and return the validated model."""
        assert validation is not None
        trainer = self._trainer if self._trainer.by == "loo" else replace(self._trainer, n_std=0)
        if executor is not None:
            return self._received(executor.submit(train_and_validate, trainer, task, validation, True))
        callback = progress_of(self._on_event)
        return trainer.validate(trainer.train(task, validation, callback, None, gdml_train), validation, callback)

    def _with_sigma(self, first: _Work, sig: float) -> _Work:
        """Return the task of a search with another sigma; it is written if it is not there."""
        task = cast(Task, {key: value for key, value in first.task.items() if key != "tried_training"} | {"sig": sig})
        path = first.path.with_name(task_file_name(task))
        if path_type(path) == "nothing":
            save_task(path, task)
        return self._work(path)

    def _submitted(self, executor: Executor) -> dict[int, Future]:
        return {
            i: executor.submit(train_and_validate, self._trainer, work.task, work.validation, not self._alone)
            for i, work in enumerate(self.tasks)
            if not self._is_there(work) and not self._is_skipped(work)
        }

    def _is_there(self, work: _Work) -> bool:
        return path_type(work.model_path) == "file" and not self._overwrite

    def _is_skipped(self, work: _Work) -> bool:
        if not self._lazy or self._alone:
            return False
        return bool(np.any(load_npz(work.path, {"tried_training"}).get("tried_training", False)))  # others may have

    def _model(self, work: _Work, future: Future | None, gdml_train: GDMLTrain) -> Model | None:
        """Return the model of a task, validated if it has competitors; None if it is to be skipped."""
        if self._is_there(work):
            model = load_model(work.model_path)
            _require_model_of(work, model)
            self._on_event(ModelKept(Properties.of(model).sig, work.model_path))
        elif self._is_skipped(work):
            return None
        else:
            require_target(work.model_path, MODEL)
            forget(work.path.parent)
            save_task(work.path, {**work.task, "tried_training": True})
            model = self._trained(work, gdml_train) if future is None else self._received(future)
            update_model(work.model_path, model)
            delete(work.path.with_name(checkpoint_file_name(work.task)))
            self._on_event(ModelTrained(Properties.of(model).sig, work.model_path, Outcome.of(model).solver))
        if self._alone:
            return model
        if "alphas_F" in model and np.array_equal(model["idxs_train"], work.task["idxs_train"]):
            self._near.append({key: value for key, value in model.items() if key in _OF_NEAR})
        if not is_validated(model):
            assert work.validation is not None
            model = self._trainer.validate(model, work.validation, progress_of(self._on_event))
            update_model(work.model_path, model)
        outcome = Outcome.of(model)
        self._on_event(ModelValidated(Properties.of(model).sig, work.model_path, outcome.mae, outcome.rmse))
        return model

    def _trained(self, work: _Work, gdml_train: GDMLTrain) -> Model:
        save = checkpoint_saver(work.path.with_name(checkpoint_file_name(work.task)), self._on_event)
        callback = progress_of(self._on_event)
        return self._trainer.train(work.task, work.validation, callback, save, gdml_train, self._near)

    def _received(self, future: Future) -> Model:
        model, events = future.result()
        for event in events:
            self._on_event(event)
        return model


def _trained_from(finished: Path, unfinished: Model, is_checkpoint: bool) -> Model:
    """Return the model of a training that was cut before it was validated, or before its checkpoint was deleted.

    Raises
    ------
    UsageError
        If it is another model, or was finished.
    """
    if kind_of(finished) == MODEL:
        model = load_model(finished)
        same = np.array_equal(model["idxs_train"], unfinished["idxs_train"])
        if same and (is_checkpoint or not is_validated(model)):
            return model
    raise UsageError(f"{finished} is there already: the training was finished. Overwrite it with -o.")


def _require_model_of(work: _Work, model: Model) -> None:
    """Raise UsageError unless a model that is there was trained and validated on the points of its task."""
    one, other = Properties.of(work.task), Properties.of(model)
    same = all(
        np.array_equal(np.sort(a), np.sort(b))
        for a, b in ((one.idxs_train, other.idxs_train), (one.idxs_valid, other.idxs_valid))
    )
    if not (same and one.md5_train == other.md5_train and one.md5_valid == other.md5_valid):
        raise UsageError(
            f"'{work.model_path}' is there already, but was trained or validated on other points than its task has: it "
            "belongs to another search. Give -o to train it again, or move it away."
        )


def resume(
    model_file: Path,
    dataset: Dataset,
    valid_dataset: Dataset,
    trainer: Trainer,
    on_event: OnEvent = nobody,
    overwrite: bool = False,
) -> Path:
    """Go on with the training of an unconverged model, validate it, and return its file.

    Cut at any moment, it is finished by the same call: the checkpoint is deleted when the model is there and validated.

    Parameters
    ----------
    model_file : Path
        A model of the iterative solver, as a checkpoint.
    dataset, valid_dataset : dict
        The datasets that its points were drawn from.
    trainer : Trainer
        How to train.
    on_event : callable, optional
        Gets the events.
    overwrite : bool
        Whether a finished model may be replaced.

    Raises
    ------
    UsageError
        If it is no model of the iterative solver, the datasets are others, or the training was finished.
    """
    model = load_model(model_file)
    check_same_system(model, valid_dataset, "model", "validation dataset")
    require_drawn_from(model, "valid", valid_dataset, str(model_file))
    gdml_train = trainer.start()
    task = gdml_train.create_task_from_model(model, dataset)
    finished = model_file.with_name(model_file_name(task))
    if finished == model_file:
        require_update(model_file)
    else:
        require_target(finished, MODEL)
    checkpoint = finished.with_name(checkpoint_file_name(task))
    kept = None
    if path_type(finished) == "file" and finished != model_file and not overwrite:
        kept = _trained_from(finished, model, model_file == checkpoint)
    with locked(finished.parent, shared=True):
        on_event(TrainingResumed(model_file, Outcome.of(model).n_steps or 0))
        points = part_of(valid_dataset, validation_points(task, valid_dataset))
        callback = progress_of(on_event)
        if kept is None:
            model = trainer.train(task, points, callback, checkpoint_saver(checkpoint, on_event), gdml_train)
            update_model(finished, model)
            on_event(ModelTrained(Properties.of(model).sig, finished, Outcome.of(model).solver))
        else:
            model = kept
            on_event(ModelKept(Properties.of(model).sig, finished))
        if not is_validated(model):
            model = trainer.validate(model, points, callback)
            update_model(finished, model)
        delete(checkpoint)
        outcome = Outcome.of(model)
        on_event(ModelValidated(Properties.of(model).sig, finished, outcome.mae, outcome.rmse))
    return finished
