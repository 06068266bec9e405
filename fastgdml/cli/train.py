"""`fastgdml train`: train the models of the tasks in a directory, and validate them if there are several."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..dataset import load_dataset
from ..search import run as run_search
from ..task_folder import files_of
from .cluster import placed
from .console import Console
from .search_events import printer


def run(args: argparse.Namespace, console: Console) -> None:
    """Train and say what comes next."""
    console.title("MODEL TRAINING")
    tasks = files_of(args.task_dir, "task")
    with interrupted_by_sigterm(), placed(vars(args), args.distribute) as (trainer, executor):
        models = run_search(
            args.task_dir,
            load_dataset(args.valid_dataset),
            trainer,
            printer(console),
            executor,
            lazy=args.lazy,
            overwrite=args.overwrite,
        )
    if len(tasks) == 1:
        console.info("The only model needs no validation.")
        console.title("NEXT STEP", f"fastgdml test {models[0]} <test_dataset> [<n_test>]")
    else:
        by = "" if args.by == "validation" else f" --by {args.by}"
        console.title("NEXT STEP", f"fastgdml select {tasks[0].parent}{by}")


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM, which batch systems send before they kill, as Ctrl-C."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
