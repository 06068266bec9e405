"""`fastgdml train`: train the models of the tasks in a directory, and validate them if there are several."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..dataset import Dataset, check_same_system, load_dataset, take_points
from ..model import Model, is_validated, load_model, save_model
from ..npz import MODEL, path_type, require_target
from ..overlap import require_drawn_from
from ..task import Task, checkpoint_file_name, load_task, model_file_name, save_task
from ..train import GDMLTrain
from ..units import Units, conversion
from .console import Console
from .files import files_of, list_files, update_model
from .validate import validate_model, with_scale

_log = logging.getLogger(__name__)


def run(args: argparse.Namespace, console: Console) -> None:
    """Train and say what comes next."""
    console.title("MODEL TRAINING")
    tasks = files_of(args.task_dir, "task")
    models = train_tasks(args, tasks, load_dataset(args.valid_dataset), console)
    if len(tasks) == 1:
        console.title("NEXT STEP", f"fastgdml test {models[0]} <test_dataset> [<n_test>]")
    else:
        console.title("NEXT STEP", f"fastgdml select {tasks[0].parent}")


def train_tasks(args: argparse.Namespace, tasks: list[Path], valid_dataset: Dataset, console: Console) -> list[Path]:
    """Train one model for each task, in ascending order of sigma, until the validation error rises.

    Models that are there already are kept, unless `args.overwrite`. Returns the model files.
    """
    gdml_train = GDMLTrain(args.max_memory, args.max_processes, backend=args.backend)
    previous = None
    for i, task_path in enumerate(tasks):
        task = load_task(task_path)
        check_same_system(task, valid_dataset, f"task {task_path}", "validation dataset")
        require_drawn_from(task, "valid", valid_dataset, str(task_path))
        model_path = task_path.with_name(model_file_name(task))
        if len(tasks) > 1:
            console.text()
            console.heading(
                f"Task {i + 1} of {len(tasks)}: sigma {float(task['sig']):g}, {len(task['idxs_train']):,} training + "
                f"{len(task['idxs_valid']):,} validation points"
            )
        if path_type(model_path) == "file" and not args.overwrite:
            console.info(f"'{model_path.name}' is there already.")
            model = load_model(model_path)
        elif args.lazy and len(tasks) > 1 and task.get("tried_training", False):
            console.warning("Skipped: training was tried before, without success (--lazy).")
            continue
        else:
            require_target(model_path, MODEL)
            save_task(task_path, {**task, "tried_training": True})
            model = train_task(gdml_train, task, model_path, args, console, valid_dataset)
        if len(tasks) == 1:
            console.info("The only model needs no validation.")
            break
        rmse = _validated_rmse(args, model, model_path, valid_dataset, console)
        if previous is not None and rmse > previous:
            console.info("The validation error rises again: the remaining tasks are skipped.")
            break
        previous = rmse
    return list_files(tasks[0].parent, "model") if len(tasks) > 1 else [model_path]


def train_task(
    gdml_train: GDMLTrain,
    task: Task,
    model_path: Path,
    args: argparse.Namespace,
    console: Console,
    valid_dataset: Dataset,
) -> Model:
    """Train one model and save it; the iterative solver leaves checkpoints beside it, also on Ctrl-C and SIGTERM."""
    checkpoint = model_path.with_name(checkpoint_file_name(task))

    def save(model: Model) -> None:
        save_model(checkpoint, model)
        _log.info("Checkpoint after %d steps: %s", model["solver_iters"], checkpoint)

    held_out = None
    if args.early_stop:
        factors = conversion(Units.of(valid_dataset), Units.of(task), "validation dataset", "task")
        points = take_points(valid_dataset, np.asarray(task["idxs_valid"], dtype=np.int64), factors)
        held_out = (points.R, points.F, points.lattice)
    with interrupted_by_sigterm():
        model = gdml_train.train(
            task,
            save_progr_callback=save,
            callback=console.progress,
            solver=args.solver,
            tol=args.tol,
            max_iter=args.max_iter,
            held_out=held_out,
            n_std=getattr(args, "n_std", 0),  # `resume` has none
        )
    if "std_R_d_desc_alpha" in model:
        model = with_scale(model, valid_dataset, args, console)
    update_model(model_path, model)
    checkpoint.unlink(missing_ok=True)
    return model


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM, which batch systems send before they kill, as Ctrl-C."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _validated_rmse(
    args: argparse.Namespace, model: Model, model_path: Path, valid_dataset: Dataset, console: Console
) -> float:
    if not is_validated(model):
        model = validate_model(model, valid_dataset, args, console)
        update_model(model_path, model)
    return float(model["f_err_rmse"])
