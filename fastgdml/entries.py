"""The forms of the entries of task and model files, and a check of them.

Files come from several programs and years. An entry of another kind or shape is told by name, before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError
from .npz import text


@dataclass(frozen=True)
class Form:
    """What an entry must be.

    Attributes
    ----------
    what : str
        In words.
    kinds : str
        Letters of NumPy's kinds of types.
    n_dims : tuple of int
        Numbers of dimensions; one element of any shape stands for none.
    finite : bool
        Whether all numbers must be finite.
    """

    what: str
    kinds: str
    n_dims: tuple[int, ...]
    finite: bool = False


_NUMBER = Form("a finite number", "iuf", (0,), True)
_ERROR = Form("a number", "iuf", (0,))
_INTEGER = Form("an integer", "iu", (0,))
_FLAG = Form("true or false", "biu", (0,))
_TEXT = Form("a text", "USiuf", (0,))
_INDICES = Form("a list of integers", "iu", (1,))
_NUMBERS = Form("finite numbers", "iuf", (1, 2, 3), True)
_TABLE = Form("a matrix of finite numbers", "iuf", (2,), True)

_COMMON = {
    "z": _INDICES,
    "sig": _NUMBER,
    "lam": _ERROR,
    "use_E": _FLAG,
    "use_E_cstr": _FLAG,
    "use_sym": _FLAG,
    "idxs_train": _INDICES,
    "idxs_valid": _INDICES,
    "md5_train": _TEXT,
    "md5_valid": _TEXT,
    "md5_test": _TEXT,
    "dataset_name": _TEXT,
    "dataset_theory": _TEXT,
    "e_unit": _TEXT,
    "r_unit": _TEXT,
    "code_version": _TEXT,
    "image_rule": _TEXT,
    "seed": _INTEGER,
    "perms": Form("permutations, one a row, (P, N)", "iu", (1, 2)),
    "lattice": Form("3 x 3 matrices of finite numbers", "iuf", (2, 3), True),
    "solver_iters": _INTEGER,
    "weights": _TEXT,
    "desc_weights": Form("a list of finite numbers", "iuf", (1,), True),
    "weights_gain": Form("two numbers", "f", (1,)),
}
TASK_FORMS = _COMMON | {
    "R_train": _NUMBERS,
    "F_train": _NUMBERS,
    "E_train": Form("one finite energy for each point", "iuf", (1, 2, 3), True),
    "sig_search": _TEXT,
    "tried_training": _FLAG,
}
MODEL_FORMS = _COMMON | {
    "R_desc": _TABLE,
    "R_d_desc_alpha": _TABLE,
    "tril_perms_lin": _INDICES,
    "inducing_pts_idxs": _INDICES,
    "alphas_F": _NUMBERS,
    "alphas_E": _NUMBERS,
    "c": _NUMBER,
    "std": _NUMBER,
    "n_test": _INTEGER,
    "f_err_mae": _ERROR,
    "f_err_rmse": _ERROR,
    "e_err_mae": _ERROR,
    "e_err_rmse": _ERROR,
    "solver_name": _TEXT,
    "solver_reason": _TEXT,
    "solver_tol": _ERROR,
    "solver_resid": _ERROR,
    "norm_y_train": _ERROR,
    "search_errors": Form("a matrix of numbers, 5 columns", "iuf", (2,)),
    "search_trials": Form("a matrix of numbers, 3 columns", "iuf", (2,)),
}


def check_forms(entries: dict[str, Any], forms: Mapping[str, Form], source: str) -> None:
    """Check the entries of a file, those that are there; a single element becomes a scalar where one is expected.

    Raises
    ------
    DataError
        Names `source`, the entry, what it must be and what it is.
    """
    for key, form in forms.items():
        value = entries.get(key)
        if value is None:
            continue
        array = np.asarray(value)
        if form is _TEXT and array.dtype.kind in "US" and array.size:
            entries[key] = np.array(text(array)) if array.ndim else value
            continue
        if 0 in form.n_dims and array.ndim and array.size == 1:
            array = array.reshape(())
            entries[key] = array
        if array.dtype.kind not in form.kinds and array.size:
            if not (array.dtype.kind == "f" and form.kinds == "iu" and _are_integers(array)):
                raise _wrong(source, key, form, array)
            entries[key] = array = array.astype(np.int64)
        if array.ndim not in form.n_dims:
            raise _wrong(source, key, form, array)
        if key == "z" and not ((array >= 0) & (array <= 118)).all():
            raise DataError(
                f"{source}: z must hold atomic numbers, up to 118; found {array.max()}. The file is damaged."
            )
        if form.finite and not np.isfinite(array).all():
            raise DataError(f"{source}: {key} must be {form.what}; it has values that are not finite.")


def _are_integers(array: np.ndarray) -> bool:
    return bool((np.isfinite(array) & (np.abs(array) < 2**53) & (array == np.round(array))).all())


def _wrong(source: str, key: str, form: Form, array: np.ndarray) -> DataError:
    found = repr(array.item())[:40] if array.ndim == 0 else f"{array.dtype} of shape {array.shape}"
    return DataError(
        f"{source}: {key} must be {form.what}; found {found}. The file is damaged or of an unknown version."
    )
