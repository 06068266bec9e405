"""The selection of a model: the one with the lowest error is what remains of a search."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from .dataset import same_fingerprint
from .errors import DataError, FileFormatError, UsageError
from .files import path_type
from .model import Model, is_validated, load_model, save_model
from .npz import MODEL, TEXT, replacing, require_free
from .properties import Outcome, Properties
from .search_events import Candidate, ModelSelected, OnEvent, SearchDeleted, nobody
from .sigma_trials import Trials
from .task import Task
from .task_folder import delete, delete_folder, delete_search, files_of, final_model_file_name, list_files, locked
from .types import Array
from .uncertainty import leave_one_out_errors
from .units import Units, conversion

# What models are compared by, and what messages call it.
BY = {"validation": "force RMSE", "loo": "leave-one-out force MAE"}

# In the folder of a search: that its final model is in place, and which one it is.
_RECORD = ".selected.json"


def select(
    directory: str | os.PathLike[str] | Sequence[Path],
    model_file: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    on_event: OnEvent = nobody,
    keep: bool = False,
    by: str = "validation",
) -> Path:
    """Write the model with the lowest error to its final file, then delete the search.

    Nothing is deleted before the final model is in place and recorded in the folder: called again after a kill, at
    whatever moment, this returns the same model and deletes what is left.

    Parameters
    ----------
    directory : path-like or sequence of Path
        Folder with validated models, or some of the model files in it.
    model_file : path-like, optional
        Where to write it, by default to sgdml's name in the current folder.
    overwrite : bool
        Whether another model there may be replaced.
    on_event : callable, optional
        Gets the events.
    keep : bool
        Keep the search: `remove` deletes it.
    by : {'validation', 'loo'}
        Compare root mean square errors of forces on the validation points, or mean absolute errors of forces left out
        of training (of models with samples for standard deviations).

    Returns
    -------
    Path
        The final model.

    Raises
    ------
    UsageError
        If there are no models, or their errors cannot be compared; if the final file exists or lies in the folder.
    """
    require_comparison(by)
    if isinstance(directory, str | os.PathLike):
        if path_type(directory) not in ("directory", "nothing"):
            raise UsageError(f"{directory} is one model; give the directory with the models to select from.")
        folder = Path(directory)
        paths = [] if selected(folder) else files_of(directory, "model")
    else:
        paths = list(directory)
        if not paths:
            raise UsageError("There are no trained models to select from: every task was skipped. Try without --lazy.")
        folder = paths[0].parent
    with locked(folder):
        target = selected(folder)
        if target is not None and (model_file is None or _npz(model_file).resolve() == target):
            model = load_model(target)
            on_event(ModelSelected(target, Properties.of(model).sig, (), None, again=True))
        else:
            target = _write_best(paths or files_of(folder, "model"), model_file, overwrite, on_event, by)
    if not keep:
        remove(folder, on_event)
    return target


def _write_best(
    paths: list[Path], model_file: str | os.PathLike[str] | None, overwrite: bool, on_event: OnEvent, by: str
) -> Path:
    models = [load_model(path) for path in paths]
    if len(models) > 1:
        _require_comparable(paths, models)
    outcomes, sigs = [Outcome.of(model) for model in models], [Properties.of(model).sig for model in models]
    errors = [compared_error(model, by) for model in models] if len(models) > 1 else [0.0]
    number = min(range(len(models)), key=lambda i: errors[i])
    best, folder = models[number], paths[0].parent
    target = final_model_file(model_file, best)
    if not (path_type(target) == "file" and _is_final(target, best)):
        require_place(target, folder, overwrite)
        save_model(target, _with_search(best, sigs, outcomes, Trials(folder, cast(Task, best), by=by).as_array()))
    _record(folder, target, best)
    loo = errors if by == "loo" else [None] * len(models)
    found = zip(sigs, outcomes, loo, strict=True)
    candidates = tuple(Candidate(sig, outcome.mae, outcome.rmse, error) for sig, outcome, error in found)
    edge = None if len(models) == 1 else {sigs[-1]: "larger", sigs[0]: "smaller"}.get(sigs[number])
    on_event(ModelSelected(target, sigs[number], candidates, edge, again=False))
    return target


def require_comparison(by: str) -> None:
    """Raise UsageError if `by` is not what models can be compared by."""
    if by not in BY:
        raise UsageError(f"Models are compared by {' or '.join(BY)}; got {by!r}.")


def compared_error(model: Mapping[str, Any], by: str) -> float:
    """Return the error by which a model of a search is compared; `by` as of `select`.

    Raises
    ------
    UsageError
        If it has no leave-one-out errors.
    """
    if by == "validation":
        return Outcome.of(model).rmse["force"]
    left_out = leave_one_out_errors(model)
    if left_out is None:
        raise UsageError(
            f"The model with sigma {Properties.of(model).sig:g} has no leave-one-out errors to be compared by "
            "(by='loo', --by loo): train it with n_std=16 (--std 16)."
        )
    return left_out[0]


def _with_search(best: Model, sigs: Sequence[float], outcomes: Sequence[Outcome], trials: Array) -> Model:
    """Return a model that records the errors of all that it was selected from, and how they were found."""
    if len(sigs) == 1:
        return best
    rows = [
        [sig, *(errors.get(name, np.nan) for name in ("force", "energy") for errors in (outcome.mae, outcome.rmse))]
        for sig, outcome in zip(sigs, outcomes, strict=True)
    ]
    found = {**best, "search_errors": np.array(rows)}
    return cast(Model, found | ({"search_trials": trials} if len(trials) else {}))


def final_model_file(model_file: str | os.PathLike[str] | None, task_or_model: Mapping[str, Any]) -> Path:
    """Return the file for the final model: what `model_file` names, with its suffix, or sgdml's name for it."""
    if model_file is None:
        return Path(final_model_file_name(task_or_model))
    path = os.fspath(model_file)
    if Path(path).name in ("", "..") or path_type(path) == "directory":
        raise UsageError(f"--model_file must name a file; '{path}' is none.")
    return _npz(path)


def _npz(path: str | os.PathLike[str]) -> Path:
    name = os.fspath(path)
    return Path(name if name.endswith(".npz") else name + ".npz")


def require_place(target: Path, search: Path, overwrite: bool) -> None:
    """Raise if the final model cannot be written, may not overwrite what is there, or would lie in its search."""
    if target.resolve().parent == search.resolve():
        raise UsageError(
            f"The final model '{target}' would lie in the directory of the search, '{search}', whose models "
            "are deleted once one is selected. Name a file elsewhere with --model_file, or run in another directory."
        )
    require_free(target, MODEL, overwrite, "--model_file")


def require_final_place(
    model_file: str | os.PathLike[str] | None, task: Mapping[str, Any], directory: Path, overwrite: bool
) -> None:
    """Raise if the model that will be selected cannot be written; not if it is there, from an interrupted selection."""
    target = final_model_file(model_file, task)
    if selected(directory) == target.resolve():
        return
    there = path_type(target) == "file" and path_type(directory) == "directory"
    if not (there and any(_is_final(target, load_model(path)) for path in list_files(directory, "model"))):
        require_place(target, directory, overwrite)


def selected(directory: Path) -> Path | None:
    """Return the final model of a search that was not deleted, or not completely; None if there is none yet."""
    try:
        record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
        target, content = Path(record["model_file"]), record["content"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        return target if path_type(target) == "file" and _content(load_model(target)) == content else None
    except (FileFormatError, DataError):
        return None


def forget(directory: Path) -> None:
    """Forget that a model was selected: there is more to select from."""
    delete(directory / _RECORD)


def _record(directory: Path, target: Path, model: Model) -> None:
    entries = {"model_file": str(target.resolve()), "content": _content(model)}
    with replacing(directory / _RECORD, TEXT) as file:
        file.write((json.dumps(entries) + "\n").encode())


def _is_final(path: Path, model: Model) -> bool:
    """Return whether a file is the final model already, as far as it matters; a test may have been recorded in it."""
    try:
        return _content(load_model(path)) == _content(model)
    except (FileFormatError, DataError):
        return False


def _content(model: Mapping[str, Any]) -> str:
    """Return a fingerprint of what a model predicts and of the points that it was made from; not of its errors."""
    digest = hashlib.sha256()
    keys = ["z", "R_desc", "R_d_desc_alpha", "sig", "std", "c", "idxs_train", "idxs_valid"]
    for key in keys + ["desc_weights"] * ("desc_weights" in model):
        digest.update(np.ascontiguousarray(model[key], dtype=np.float64).tobytes())
    return digest.hexdigest()


def remove(directory: str | os.PathLike[str], on_event: OnEvent = nobody) -> bool:
    """Delete the files of a search, and its folder if nothing else is in it. Returns whether the folder is gone."""
    folder = Path(directory)
    try:
        with locked(folder):
            delete_search(folder)
            forget(folder)
    except FileFormatError as error:
        on_event(SearchDeleted(folder, gone=False, problem=str(error)))
        return False
    gone = delete_folder(folder)
    on_event(SearchDeleted(folder, gone, None))
    return gone


def _require_comparable(paths: list[Path], models: Sequence[Model]) -> None:
    first = Properties.of(models[0])
    for path, model in zip(paths, models, strict=True):
        if not is_validated(model):
            raise UsageError(f"{path} is not validated yet: run 'fastgdml validate {path.parent} <valid_dataset>'.")
        if Outcome.of(model).n_test > 0:
            raise UsageError(
                f"{path} has been tested, so its recorded errors are test errors. Selecting by them would spoil the "
                "test: validate again with 'fastgdml validate -o' first."
            )
        other = Properties.of(model)
        same = same_fingerprint(other.md5_train, first.md5_train) and same_fingerprint(other.md5_valid, first.md5_valid)
        for one, another in ((other.idxs_train, first.idxs_train), (other.idxs_valid, first.idxs_valid)):
            same = same and np.array_equal(np.sort(one), np.sort(another))
        if not same:
            raise UsageError(f"{path} and {paths[0]} were trained or validated on different points.")
        if conversion(Units.of(model), Units.of(models[0]), f"model {path}", f"model {paths[0]}"):
            raise UsageError(
                f"{path} and {paths[0]} were trained on the same points but record different units: "
                f"{Units.of(model)}, {Units.of(models[0])}. Their errors cannot be compared; correct e_unit and r_unit."
            )
