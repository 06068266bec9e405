"""`fastgdml all`: create, train, validate, select and test in one go."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dataset import check_same_system, load_dataset
from ..errors import NoPointsLeftError, UsageError
from ..npz import MODEL, require_target
from ..search import create
from ..search import run as run_search
from ..selection import final_model_file, remove, require_final_place, select, selected
from ..task import Task
from .cluster import placed
from .console import Console
from .options import load_dataset_argument, search_options, sigmas
from .search_events import printer
from .show import dataset_properties
from .test import test_model
from .train import interrupted_by_sigterm


def run(args: argparse.Namespace, console: Console) -> None:
    """Reconstruct a force field from beginning to end; the search is deleted when its model is tested."""
    tell = printer(console)
    if args.model_file is not None:
        require_target(final_model_file(args.model_file, {}), MODEL)
    console.title("STEP 0", "Dataset(s)")
    dataset = load_dataset(args.dataset)
    valid_dataset = load_dataset_argument(args.valid_dataset, dataset)
    options = search_options(vars(args), valid_dataset)
    test_dataset = load_dataset_argument(args.test_dataset, dataset)
    dataset_properties(console, dataset)
    check_same_system(dataset, test_dataset, "training dataset", "test dataset")
    if args.use_E and "E" not in test_dataset:
        raise UsageError("The test dataset has no energies (key 'E'); use --no_E or another dataset.")

    with interrupted_by_sigterm(), placed(vars(args), args.distribute) as (trainer, executor):

        def check(task: Task, folder: Path) -> None:  # what is wrong is found out now rather than after the training
            require_final_place(args.model_file, task, folder, args.overwrite)
            if trainer.n_std:
                trainer.groups_of(task)

        console.title("STEP 1", "Task creation")
        task_dir = create(
            dataset,
            args.n_train,
            args.n_valid,
            sigmas(args.sigs),
            options,
            tell,
            check=check,
        )
        done = selected(task_dir)
        if done is None:
            console.title("STEP 2", "Training and validation")
            how = (trainer, tell, executor)
            models = run_search(task_dir, valid_dataset, *how, lazy=args.lazy, overwrite=args.overwrite)
            console.title("STEP 3", "Hyper-parameter selection")
        candidates = models if done is None else task_dir
        model_file = select(candidates, args.model_file, args.overwrite, tell, keep=True, by=args.by)

        console.title("STEP 4", "Testing")
        try:
            test_options = (args.seed, args.overwrite, args.n_std > 0)
            test_model(model_file, test_dataset, args.n_test, trainer, console, *test_options)
        except NoPointsLeftError as error:
            console.warning(f"The model is not tested. {error}")
        remove(task_dir, tell)
    console.done(f"This is your model file: '{model_file}'")
