"""How the events of a search are printed."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

from rich.table import Table

from .. import search_events as happened
from ..selection import BY
from .console import Console


def printer(console: Console) -> Callable[[happened.Event], None]:
    """Return what prints events, and gives those that are results to programs that ask for JSON."""

    def tell(event: happened.Event) -> None:
        if not isinstance(event, happened.Progress):
            console.result(event.as_dict())
        _tell(event, console)

    return tell


@singledispatch
def _tell(event: happened.Event, console: Console) -> None:
    """Print an event. Those of classes without a function of their own say nothing to people."""


@_tell.register
def _(event: happened.Progress, console: Console) -> None:
    console.progress(event.current, event.total, event.title, event.detail, event.warning)


@_tell.register
def _(event: happened.SearchBegun, console: Console) -> None:
    console.info(f"Seed: {event.seed}" + ("" if event.seed_is_given else " (repeat this run with --seed)"))
    if not event.has_energies:
        console.warning("The dataset has no energies: points are drawn uniformly instead of stratified by energy.")
    if event.several_cells is not None:
        several = ", one cell for each geometry" if event.several_cells else ""
        console.info(f"Lattice vectors found: periodic boundary conditions are applied{several}.")


@_tell.register
def _(event: happened.SearchResumed, console: Console) -> None:
    console.info(f"Resuming the search in '{event.directory}'.")


@_tell.register
def _(event: happened.TasksWritten, console: Console) -> None:
    if event.n_written:
        console.done(
            f"Wrote {event.n_written} of {event.n_tasks} tasks with {event.n_train} training points each to "
            f"'{event.directory}'"
        )


@_tell.register
def _(event: happened.TaskBegun, console: Console) -> None:
    if event.n_tasks != 1:
        console.text()
        of_all = "" if event.n_tasks is None else f" of {event.n_tasks}"
        console.heading(
            f"Task {event.number}{of_all}: sigma {event.sig:g}, {event.n_train:,} training + "
            f"{event.n_valid:,} validation points"
        )


@_tell.register
def _(event: happened.TaskSkipped, console: Console) -> None:
    console.warning("Skipped: training was tried before, without success (--lazy).")


@_tell.register
def _(event: happened.ModelKept, console: Console) -> None:
    console.info(f"'{event.path.name}' is there already.")


@_tell.register
def _(event: happened.CheckpointSaved, console: Console) -> None:
    console.info(f"Checkpoint after {event.n_steps} steps: {event.path}")


@_tell.register
def _(event: happened.TrainingResumed, console: Console) -> None:
    console.info(f"Going on after {event.n_steps:,} steps.")


@_tell.register
def _(event: happened.TrialsBegun, console: Console) -> None:
    console.text()
    console.heading(f"Where to look for sigma: models of {event.n_part:,} of the {event.n_train:,} training points")


@_tell.register
def _(event: happened.SigmaTried, console: Console) -> None:
    error = "no model" if event.error is None else f"{BY[event.by]} {event.error:.4f}"
    console.info(f"Sigma {event.sig:g} with {event.n_train:,} points: {error}")


@_tell.register
def _(event: happened.SigmaFound, console: Console) -> None:
    table = Table(title="Search for sigma", title_justify="left")
    for column in ("points", "sigma", BY[event.trials[0].by]):
        table.add_column(column, justify="right")
    for trial in event.trials:
        error = "no model" if trial.error is None else f"{trial.error:.4f}"
        table.add_row(f"{trial.n_train:,}", f"{trial.sig:g}", error)
    console.text()
    console.table(table)


@_tell.register
def _(event: happened.SearchEnded, console: Console) -> None:
    console.info("The error rises again: the remaining tasks are skipped.")


@_tell.register
def _(event: happened.ModelSelected, console: Console) -> None:
    if len(event.candidates) > 1:
        console.text()
        console.table(_table(event))
    if event.edge is not None:
        console.warning(
            f"The best sigma, {event.sig:g}, is at the edge of the search: {event.edge} ones may do better."
        )
    console.done(f"Model file '{event.path}' was written before" if event.again else f"Wrote model file '{event.path}'")


def _table(event: happened.ModelSelected) -> Table:
    table = Table(title="Validation errors", title_justify="left")
    by_loo = event.candidates[0].loo is not None
    for column in ("sigma", "energy MAE", "energy RMSE", "force MAE", "force RMSE", *["left-out MAE"] * by_loo, ""):
        table.add_column(column, justify="right")
    for candidate in event.candidates:
        cells = [
            f"{errors[name]:.4f}" if name in errors else "-"
            for name in ("energy", "force")
            for errors in (candidate.mae, candidate.rmse)
        ]
        if candidate.loo is not None:
            cells.append(f"{candidate.loo:.4f}")
        chosen = candidate.sig == event.sig
        table.add_row(f"{candidate.sig:g}", *cells, "<- best" if chosen else "", style="bold" if chosen else "dim")
    return table


@_tell.register
def _(event: happened.SearchDeleted, console: Console) -> None:
    if event.problem is not None:
        console.warning(f"The search is not deleted. {event.problem}")
    elif not event.gone:
        console.info(f"'{event.directory}' holds other files and is kept.")
