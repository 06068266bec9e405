"""The options of commands that work on a cluster."""

from __future__ import annotations

import argparse


def add_cluster_options(command: argparse.ArgumentParser, distribute: bool = False) -> None:
    """Add the options."""
    command.add_argument(
        "--scheduler",
        metavar="<where>",
        help="work on a cluster (Dask): address of a scheduler, file:SCHEDULER.json, local:N processes of this "
        "machine, or slurm:CONFIG.yaml",
    )
    if distribute:
        command.add_argument(
            "--distribute",
            choices=("tasks", "rows"),
            help="on a cluster: give each worker trainings of its own, or divide the rows of each training among all "
            "(conjugate gradients) (default: tasks)",
        )
