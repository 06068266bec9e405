"""What a search that finds sigma itself has tried: the record in its folder; the part of the points to begin with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .npz import TEXT, replacing
from .properties import Properties
from .search_events import SigmaTried
from .task import Task
from .task_folder import TRIALS
from .types import Array, IntArray

# Share of the training points that is tried first, and the fewest that show something.
_SHARE = 4
_FEWEST = 50


class Trials:
    """Trials of a search, in order, each once; kept in a file, so that a search that was cut repeats none.

    Parameters
    ----------
    folder : Path
        Folder of the search.
    task : dict
        One of its tasks; the record of a search with other points is not read.
    anew : bool
        Whether to forget what is recorded.
    by : str
        What models are compared by (`fastgdml.selection.BY`); other trials are not read.
    """

    def __init__(self, folder: Path, task: Task, anew: bool = False, by: str = "validation") -> None:
        self._path, self._points, self._by = folder / TRIALS, _fingerprint(task), by
        self._found = {} if anew else self._read()

    def get(self, n_train: int, sig: float) -> SigmaTried | None:
        """Return the trial with so many points, if there was one."""
        return self._found.get((n_train, sig))

    def add(self, trial: SigmaTried) -> None:
        """Record a trial; that of the same number of points and sigma is replaced."""
        if self.get(trial.n_train, trial.sig) == trial:
            return
        self._found[trial.n_train, trial.sig] = trial
        lines = {"points": self._points, "trials": [asdict(each) for each in self.all]}
        with replacing(self._path, TEXT) as file:
            file.write((json.dumps(lines, indent=1) + "\n").encode())

    @property
    def all(self) -> tuple[SigmaTried, ...]:
        """All trials, in order."""
        return tuple(self._found.values())

    def as_array(self) -> Array:
        """Return number of points, sigma and error (NaN without a model) of all trials, shape (S, 3)."""
        rows = [[each.n_train, each.sig, np.nan if each.error is None else each.error] for each in self.all]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    def _read(self) -> dict[tuple[int, float], SigmaTried]:
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            if record["points"] != self._points:
                return {}
            found = [SigmaTried(**each) for each in record["trials"]]
        except (OSError, ValueError, KeyError, TypeError):  # none, or no record: what is missing is tried again
            return {}
        return {(each.n_train, each.sig): each for each in found if each.by == self._by}


def _fingerprint(entries: Task) -> str:
    known = Properties.of(entries)
    digest = hashlib.sha256(repr((known.md5_train, known.md5_valid, known.lam)).encode())
    for idxs in (known.idxs_train, known.idxs_valid):
        digest.update(np.sort(idxs).tobytes())
    return digest.hexdigest()


def representative_part(task: Task) -> IntArray | None:
    """Return a quarter of the training points, by their numbers among them; None if there are too few to begin with.

    Energies are spread over it as over all: every fourth in their order.
    """
    n_train = len(task["R_train"])
    if n_train < _SHARE * _FEWEST:
        return None
    order = np.argsort(np.ravel(task["E_train"]), kind="stable") if "E_train" in task else np.arange(n_train)
    return np.sort(order[_SHARE // 2 :: _SHARE])
