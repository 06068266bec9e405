"""`fastgdml resume`: go on with the training of a model of the iterative solver."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dataset import check_same_system, load_dataset
from ..errors import UsageError
from ..model import load_model
from ..npz import MODEL, path_type, require_target
from ..overlap import require_drawn_from
from ..task import model_file_name
from ..train import GDMLTrain
from .console import Console
from .files import require_update, update_model
from .train import train_task
from .validate import validate_model


def run(args: argparse.Namespace, console: Console) -> None:
    """Train on, validate, and say what comes next."""
    console.title("RESUME TRAINING")
    path = Path(args.model)
    model = load_model(path)
    dataset, valid_dataset = load_dataset(args.train_dataset), load_dataset(args.valid_dataset)
    check_same_system(model, valid_dataset, "model", "validation dataset")
    require_drawn_from(model, "valid", valid_dataset, str(path))
    gdml_train = GDMLTrain(args.max_memory, args.max_processes, backend=args.backend)
    task = gdml_train.create_task_from_model(model, dataset)
    finished = path.with_name(model_file_name(task))
    if finished == path:
        require_update(path)
    else:
        require_target(finished, MODEL)
    if path_type(finished) == "file" and finished != path and not args.overwrite:
        raise UsageError(f"{finished} is there already: the training was finished. Overwrite it with -o.")
    console.info(f"Going on after {int(task.get('solver_iters', 0)):,} steps.")
    model = train_task(gdml_train, task, finished, args, console, valid_dataset)
    update_model(finished, validate_model(model, valid_dataset, args, console))
    console.title("NEXT STEP", f"fastgdml test {finished} <test_dataset> [<n_test>]")
