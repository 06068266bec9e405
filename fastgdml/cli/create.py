"""`fastgdml create`: one task file for each sigma of a search."""

from __future__ import annotations

import argparse

from ..dataset import load_dataset
from ..search import create
from .console import Console
from .options import load_dataset_argument, search_options, sigmas
from .search_events import printer
from .show import dataset_properties


def run(args: argparse.Namespace, console: Console) -> None:
    """Create the tasks and say how to train them."""
    console.title("TASK CREATION")
    dataset = load_dataset(args.dataset)
    options = search_options(vars(args), load_dataset_argument(args.valid_dataset, dataset))
    dataset_properties(console, dataset)
    console.text()
    task_dir = create(dataset, args.n_train, args.n_valid, sigmas(args.sigs), options, printer(console))
    console.title("NEXT STEP", f"fastgdml train {task_dir} {args.valid_dataset or args.dataset}")
