"""`fastgdml resume`: go on with the training of a model of the iterative solver."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dataset import load_dataset, same_fingerprint
from ..errors import UsageError
from ..model import load_model, save_model
from ..task import model_file_name
from ..train import GDMLTrain
from .console import Console
from .train import train_task
from .validate import validate_model


def run(args: argparse.Namespace, console: Console) -> None:
    """Train on, validate, and say what comes next."""
    console.title("RESUME TRAINING")
    path = Path(args.model)
    model = load_model(path)
    dataset, valid_dataset = load_dataset(args.train_dataset), load_dataset(args.valid_dataset)
    if not same_fingerprint(valid_dataset["md5"], model["md5_valid"]):
        raise UsageError(f"{path} is to be validated on another dataset: its fingerprint is not that of the one given.")
    gdml_train = GDMLTrain(args.max_memory, args.max_processes, backend=args.backend)
    task = gdml_train.create_task_from_model(model, dataset)
    finished = path.with_name(model_file_name(task))
    if finished.exists() and finished != path and not args.overwrite:
        raise UsageError(f"{finished} is there already: the training was finished. Overwrite it with -o.")
    console.info(f"Going on after {int(task.get('solver_iters', 0)):,} steps.")
    model = train_task(gdml_train, task, finished, args, console, valid_dataset)
    save_model(finished, validate_model(model, valid_dataset, args, console))
    console.title("NEXT STEP", f"fastgdml test {finished} <test_dataset> [<n_test>]")
