"""What happens in a search, as small objects: to be printed, counted, or written as lines of JSON (`as_dict`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .progress import Callback


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    def as_dict(self) -> dict[str, Any]:
        """Return it in types that JSON has, with its name under 'event', as in 'model_trained'."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        return {"event": name, **_plain(asdict(self))}


OnEvent = Callable[[Event], object]


def nobody(_: Event) -> None:
    """Take an event and do nothing."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Progress(Event):
    """`current` of `total` pieces of a step of the work are done, see `fastgdml.progress.Callback`."""

    title: str
    current: int
    total: int
    detail: str | None
    warning: bool


def progress_of(on_event: OnEvent) -> Callback:
    """Return the callback that tells progress as events."""

    def callback(
        current: int,
        total: int = 1,
        disp_str: str = "",
        sec_disp_str: str | None = None,
        done_with_warning: bool = False,
    ) -> None:
        on_event(Progress(disp_str, current, total, sec_disp_str, done_with_warning))

    return callback


# ---- tasks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchBegun(Event):
    """Points are going to be drawn. `seed_is_given`: the seed is not a new one; `several_cells`: None of molecules."""

    seed: int
    seed_is_given: bool
    has_energies: bool
    several_cells: bool | None


@dataclass(frozen=True)
class SearchResumed(Event):
    """An unfinished search goes on."""

    directory: Path


@dataclass(frozen=True)
class TasksWritten(Event):
    """All tasks are there, `n_written` of them new."""

    directory: Path
    n_written: int
    n_tasks: int
    n_train: int


# ---- models -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskBegun(Event):
    """It is the turn of task `number`, counted from 1; how many there are is None if the search finds that itself."""

    number: int
    n_tasks: int | None
    sig: float
    n_train: int
    n_valid: int
    path: Path


@dataclass(frozen=True)
class TaskSkipped(Event):
    """A task was tried before, without success."""

    sig: float
    path: Path


@dataclass(frozen=True)
class ModelKept(Event):
    """The model of a task is there already."""

    sig: float
    path: Path


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """An unconverged model was saved after `n_steps` steps."""

    path: Path
    n_steps: int


@dataclass(frozen=True)
class TrainingResumed(Event):
    """The training of an unconverged model goes on after `n_steps` steps."""

    path: Path
    n_steps: int


@dataclass(frozen=True)
class ModelTrained(Event):
    """A model is trained and saved."""

    sig: float
    path: Path
    solver: str


@dataclass(frozen=True)
class ModelValidated(Event):
    """The errors of a model on its validation points are known and saved: by 'energy', if it has them, and 'force'."""

    sig: float
    path: Path
    mae: dict[str, float]
    rmse: dict[str, float]


@dataclass(frozen=True)
class TrialsBegun(Event):
    """A search for sigma first looks where to look, with models of `n_part` of its `n_train` points."""

    n_part: int
    n_train: int


@dataclass(frozen=True)
class SigmaTried(Event):
    """The error by which a model of `n_train` points is compared (`fastgdml.selection.BY`); None: there is no model."""

    n_train: int
    sig: float
    error: float | None
    by: str = "validation"


@dataclass(frozen=True)
class SigmaFound(Event):
    """A search for sigma has found where the error is smallest, by these trials, in order."""

    sig: float
    trials: tuple[SigmaTried, ...]


@dataclass(frozen=True)
class SearchEnded(Event):
    """The error by which models are compared has risen: `n_left` tasks are not trained."""

    n_left: int


# ---- selection --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A model to select from. `loo`: mean absolute error of forces left out of training, if that is compared."""

    sig: float
    mae: dict[str, float]
    rmse: dict[str, float]
    loo: float | None = None


@dataclass(frozen=True)
class ModelSelected(Event):
    """The final model is in place.

    `edge` says on which side of the search a better sigma may lie ('smaller', 'larger', or None); `again`: it had been
    selected by an earlier call, and there is no list of candidates.
    """

    path: Path
    sig: float
    candidates: tuple[Candidate, ...]
    edge: str | None
    again: bool


@dataclass(frozen=True)
class SearchDeleted(Event):
    """A search is deleted. `gone`: its folder too; `problem`: why something could not be deleted."""

    directory: Path
    gone: bool
    problem: str | None
