"""The folder of a run: what it is of, and each call of the calculator with the state that follows from it.

A call is a file, written in one piece as soon as the calculator has answered. The files in their order are the whole
state: whoever reads them goes on where the last call left off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, UsageError
from ..npz import TEXT, load_npz, path_type, replacing, save_npz
from ..types import Array, IntArray

SETTINGS = "settings.json"
# Of the format of the folder.
_VERSION = 1

# What is asked of the calculator, and why.
START, DISPLACED, CONTROL, EARLY = "start", "displaced", "control", "early"
# What came of it: trained on; too high in energy (trained on, or not); known already; no result.
USED, HIGH, EXTREME, KNOWN, FAILED = "used", "high", "extreme", "known", "failed"


@dataclass
class State:
    """Where the trajectory is, and what is due. Positions and momenta are ASE's, Angstrom and its momenta.

    Attributes
    ----------
    R, momenta : ndarray, shape (N, 3)
        The atoms.
    random : str
        State of the random numbers, JSON.
    step : int
        Steps of the trajectory so far, without those that were taken back.
    stride : int
        Steps from the last label to the next that is due, at most the interval.
    due : int
        Steps left until then.
    n_back : int
        How often in a row the trajectory was stepped back.
    """

    R: Array
    momenta: Array
    random: str
    step: int
    stride: int
    due: int
    n_back: int = 0


@dataclass(frozen=True)
class Call:
    """One call of the calculator and what follows from it, in the units of the labels unless they are said.

    Attributes
    ----------
    number : int
        Counted from 1.
    why, outcome : str
        Why it was made, what came of it; the constants of this module.
    R : ndarray, shape (N, 3)
        The geometry.
    E : float
        The energy, NaN if there is none.
    F : ndarray, shape (N, 3)
        The forces, NaN if there are none.
    mae, rmse : float
        Mean absolute and root mean square error of the forces that were predicted before the call, NaN if none were.
    e_error : float
        Predicted minus true energy, NaN likewise.
    f_std, limit : float
        Largest standard deviation of a force on an atom, and the limit for it; NaN if there was no model.
    seconds : float
        Time of the call.
    message : str
        What the calculator said, if it failed.
    n_train, sig, perms : int, float, ndarray
        Training points, length scale and permutations of the model that predicted.
    state : State
        Where the trajectory goes on from.
    """

    number: int
    why: str
    outcome: str
    R: Array
    E: float
    F: Array
    mae: float
    rmse: float
    e_error: float
    f_std: float
    limit: float
    seconds: float
    message: str
    n_train: int
    sig: float
    perms: IntArray
    state: State

    @property
    def is_labelled(self) -> bool:
        """Whether there are energy and forces."""
        return self.outcome != FAILED

    @property
    def is_used(self) -> bool:
        """Whether the model was trained on it."""
        return self.outcome in (USED, HIGH)


class Records:
    """The folder.

    Parameters
    ----------
    folder : Path
        The folder, which exists.
    settings : mapping
        What the run is of: texts and numbers.

    Raises
    ------
    UsageError
        If the folder holds a run of something else.
    FileFormatError
        If a file in it is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        path = folder / SETTINGS
        known = None if path_type(path) == "nothing" else _read_settings(path)
        if not any(folder.glob("call-*.npz")):  # whatever was begun here, nothing is lost with it
            self._write_settings(path, settings)
        elif known is None:
            raise FileFormatError(f"{folder} holds calls, but no {SETTINGS}. Give another folder.")
        else:
            _require_same(known, settings, folder)
        self.calls = self._read()

    def _write_settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        with replacing(path, TEXT) as file:
            file.write((json.dumps({"version": _VERSION, **settings}, indent=1) + "\n").encode())

    def append(self, call: Call) -> None:
        """Write a call and keep it."""
        entries = {f"call_{field.name}": getattr(call, field.name) for field in fields(Call) if field.name != "state"}
        entries |= {f"state_{field.name}": getattr(call.state, field.name) for field in fields(State)}
        save_npz(self._path(call.number), entries)
        self.calls.append(call)

    def _path(self, number: int) -> Path:
        return self.folder / f"call-{number:06d}.npz"

    def _read(self) -> list[Call]:
        calls: list[Call] = []
        there = sorted(self.folder.glob("call-*.npz"))
        for number, path in enumerate(there, start=1):
            if path != self._path(number):
                raise FileFormatError(f"{self.folder}: '{self._path(number).name}' is missing. Restore it.")
            calls.append(_call(path))
        return calls


def _call(path: Path) -> Call:
    entries = load_npz(path)
    try:
        state = State(**{field.name: _plain(entries[f"state_{field.name}"]) for field in fields(State)})
        values = {f.name: _plain(entries[f"call_{f.name}"]) for f in fields(Call) if f.name != "state"}
    except KeyError as error:
        raise FileFormatError(f"{path} is no call of a calculator that fastgdml wrote: {error} is missing.") from None
    return Call(**values, state=state)


def _plain(value: Any) -> Any:
    return value.item() if np.ndim(value) == 0 else value


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("version") == _VERSION:
            return dict(found)
    except (OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path} is not what fastgdml wrote ({error}). Give another folder.") from None
    raise FileFormatError(f"{path} is of another version of fastgdml. Give another folder.")


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        differences = "; ".join(f"{key} is {_short(found.get(key))}, here {_short(wanted[key])}" for key in other)
        raise UsageError(
            f"'{folder}' holds a run of something else: {differences}. Give the same again to go on with it, or "
            "another name (-o, --folder)."
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
