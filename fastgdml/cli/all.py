"""`fastgdml all`: create, train, validate, select and test in one go."""

from __future__ import annotations

import argparse

from ..dataset import check_same_system, load_dataset
from ..errors import NoPointsLeftError, UsageError
from ..npz import MODEL
from .console import Console
from .create import create_tasks
from .files import list_files, load_dataset_argument, require_free
from .select import final_model_file, require_place, select_model
from .show import dataset_properties
from .test import test_model
from .train import train_tasks


def run(args: argparse.Namespace, console: Console) -> None:
    """Reconstruct a force field from beginning to end."""
    if args.model_file is not None:
        require_free(final_model_file(args, {}), MODEL, args.overwrite, "--model_file")
    console.title("STEP 0", "Dataset(s)")
    dataset = load_dataset(args.dataset)
    valid_dataset = load_dataset_argument(args.valid_dataset, dataset)
    test_dataset = load_dataset_argument(args.test_dataset, dataset)
    dataset_properties(console, dataset)
    check_same_system(dataset, test_dataset, "training dataset", "test dataset")
    if args.use_E and "E" not in test_dataset:
        raise UsageError("The test dataset has no energies (key 'E'); use --no_E or another dataset.")

    console.title("STEP 1", "Task creation")
    task_dir = create_tasks(
        args,
        dataset,
        valid_dataset,
        console,
        # an existing model is found out now rather than after the training
        check=lambda task, folder: require_place(final_model_file(args, task), folder, args.overwrite),
    )
    tasks = list_files(task_dir, "task")

    console.title("STEP 2", "Training and validation")
    models = train_tasks(args, tasks, valid_dataset, console)

    console.title("STEP 3", "Hyper-parameter selection")
    model_file = select_model(args, models, console)

    console.title("STEP 4", "Testing")
    try:
        test_model(args, model_file, test_dataset, args.n_test, console)
    except NoPointsLeftError as error:
        console.warning(f"The model is not tested. {error}")
    console.done(f"This is your model file: '{model_file}'")
