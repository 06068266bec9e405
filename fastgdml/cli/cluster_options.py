"""The options of commands that work on a cluster."""

from __future__ import annotations

import argparse

from .values import positive_float, positive_int


def add_cluster_options(command: argparse.ArgumentParser) -> None:
    """Add the options of all of them."""
    command.add_argument(
        "--scheduler",
        metavar="<where>",
        help="work on a cluster (Dask): address of a scheduler, file:SCHEDULER.json, local:N processes of this "
        "machine, or slurm:CONFIG.yaml",
    )
    command.add_argument(
        "--wait",
        metavar="<s>",
        type=positive_float,
        help="seconds to wait for the first worker (default: 60, for jobs in a queue a day), and by rows for the "
        "others (default: 600)",
    )


def add_training_options(command: argparse.ArgumentParser, distribute: bool) -> None:
    """Add the options of trainings, and that for how they are divided, if there is a choice."""
    add_cluster_options(command)
    command.add_argument(
        "--workers",
        dest="n_workers",
        metavar="<n>",
        type=positive_int,
        help="workers to wait for before rows are divided (default: those of the jobs, or those that are there)",
    )
    if distribute:
        command.add_argument(
            "--distribute",
            choices=("tasks", "rows"),
            help="on a cluster: give each worker trainings of its own, or divide the rows of each training among all "
            "(conjugate gradients) (default: tasks)",
        )
