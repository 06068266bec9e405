"""The schema of datasets, tasks and models: what each entry must be, and the check of it.

Files come from several programs and years, dictionaries from anybody. Every door applies the same check: files that are
read, mappings that are given to Python's functions, models that are exported. An entry that is not what it must be is
told by name, with what was found and what is wanted, before it is used.

Shapes are in symbols: N atoms, D = N (N - 1) / 2 pairs of them, M geometries or training points, P permutations,
S samples. A symbol has the first value that it is found with; other symbols are free, each in its own entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .npz import text
from .perms import check_group

Shape = tuple[str | int, ...]

# Above any length scale or regularisation that makes sense.
HUGE = 1e15
_BOUND = ("N", "D", "M", "P", "S")


@dataclass(frozen=True)
class Form:
    """What an entry must be.

    Attributes
    ----------
    what : str
        In words.
    kinds : str
        Letters of NumPy's kinds of types. Floats that are integers pass for integers.
    shapes : tuple of tuple
        Shapes that it may have, in symbols and numbers. One element of any shape passes for a scalar.
    least, most : float
        The range of its numbers.
    positive : bool
        Whether 0 is not in the range.
    finite : bool
        Whether all numbers must be finite; otherwise NaN, and what the range allows, stand for what is not known.
    flat : bool
        Whether the number of elements matters and not the shape.
    group : bool
        Whether its rows must be a group of permutations of like atoms.
    """

    what: str
    kinds: str = "iuf"
    shapes: tuple[Shape, ...] = ((),)
    least: float = -math.inf
    most: float = math.inf
    positive: bool = False
    finite: bool = True
    flat: bool = False
    group: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it is a text."""
        return "S" in self.kinds


Schema = Mapping[str, Form]


def _array(what: str, *shape: str | int, **options: Any) -> Form:
    return Form(what, shapes=(shape,), **options)


def _indices(what: str, symbol: str, **options: Any) -> Form:
    return Form(what, "iu", ((symbol,),), 0, 2**53, flat=True, **options)


_NUMBER = Form("a finite number")
_ERROR = Form("a number that is not negative, or NaN", least=0, finite=False)
_COUNT = Form("an integer that is not negative", "iu", least=0, most=2**63)
_FLAG = Form("true or false", "biu", least=0, most=1)
_TEXT = Form("a text", "USiuf", finite=False)
_STATISTIC = Form("a number", finite=False)

_ATOMS = Form("atomic numbers, up to 118", "iu", (("N",),), 0, 118)
_PERMS = Form("a group of permutations of atoms, one a row", "iu", (("P", "N"), ("N",)), 0, group=True)
_LATTICE = Form("lattice vectors as columns", shapes=((3, 3), ("M", 3, 3)))
_SIGMA = Form(f"a positive number up to {HUGE:g}", least=0, most=HUGE, positive=True)

_OF_BOTH: Schema = {
    "idxs_train": _indices("numbers of training points", "M"),
    "idxs_valid": _indices("numbers of validation points", "V"),
    "perms": _PERMS,
    "lattice": _LATTICE,
    "image_rule": _TEXT,
    "r_unit": _TEXT,
    "e_unit": _TEXT,
    "code_version": _TEXT,
    "dataset_name": _TEXT,
    "dataset_theory": _TEXT,
    "md5_train": _TEXT,
    "md5_valid": _TEXT,
    "use_E": _FLAG,
    "use_sym": _FLAG,
    "use_E_cstr": _FLAG,
    "seed": _COUNT,
    "weights": _TEXT,
    "desc_weights": _array("positive weights of pairs", "D", least=0, positive=True),
    "weights_gain": _array("two numbers", 2, finite=False),
    "solver_iters": _COUNT,
    "inducing_pts_idxs": _indices("numbers of columns of the kernel matrix", "C"),
}

DATASET: Schema = {
    "z": Form("atomic numbers, 1 to 118", "iu", (("N",),), 1, 118),
    "R": _array("positions", "M", "N", 3),
    "F": _array("forces", "M", "N", 3),
    "E": _array("energies", "M", flat=True),
    "lattice": _LATTICE,
    "perms": _PERMS,
    **dict.fromkeys(("r_unit", "e_unit", "type", "name", "theory", "md5", "provenance"), _TEXT),
    "md5_aliases": Form("fingerprints", "US", (("A",), ())),
    **{f"{key}_{what}": _STATISTIC for key in "EF" for what in ("min", "max", "mean", "var")},
}

TASK: Schema = {
    "z": _ATOMS,
    "R_train": _array("training geometries", "M", "N", 3),
    "F_train": _array("their forces", "M", "N", 3),
    **_OF_BOTH,
    "E_train": _array("one energy for each training point", "M", flat=True),
    "sig": _SIGMA,
    "lam": Form(f"a number from 0 to {HUGE:g}", least=0, most=HUGE),
    "sig_search": _TEXT,
    "tried_training": _FLAG,
    "alphas0_F": _array("coefficients of an earlier run", "3 N M", kinds="f", flat=True),
    "alphas0_E": _array("coefficients of an earlier run", "M", kinds="f", flat=True),
}

MODEL: Schema = {
    "z": _ATOMS,
    "R_desc": _array("descriptors, a column for each training point", "D", "M", least=0),
    "R_d_desc_alpha": _array("Jacobians times coefficients", "M", "D"),
    **_OF_BOTH,
    "idxs_train": Form("numbers of training points", "iu", (("M",), (0,)), 0, 2**53, flat=True),
    # predictions mean something with any permutations, equations only with a group
    "perms": Form("permutations of atoms, one a row", "iu", (("P", "N"), ("N",)), 0),
    "c": _NUMBER,
    "std": Form("a positive number", least=0, positive=True),
    "sig": _SIGMA,
    "tril_perms_lin": _indices("permutations of pairs", "P D"),
    "alphas_E": _array("coefficients of energies", "M", flat=True),
    "alphas_F": _array("coefficients of forces", "3 N M", flat=True),
    "lam": _ERROR,
    "label_noise": _ERROR,
    "schema": _COUNT,
    "n_test": _COUNT,
    "md5_test": _TEXT,
    **dict.fromkeys(("f_err_mae", "f_err_rmse", "e_err_mae", "e_err_rmse"), _ERROR),
    **dict.fromkeys(("solver_name", "solver_reason"), _TEXT),
    **dict.fromkeys(("solver_tol", "solver_resid", "norm_y_train"), _ERROR),
    "search_errors": _array("a row of 5 numbers for each model", "T", 5, finite=False),
    "search_trials": _array("a row of 3 numbers for each trial", "L", 3, finite=False),
    "std_R_d_desc_alpha": _array("Jacobians times coefficients of samples", "S", "M", "D"),
    "std_alphas_E": _array("coefficients of energies of samples", "S", "M"),
    "std_c": _array("constants of the energies of samples", "S"),
    "std_scale": Form("a number that is not negative", least=0),
    "loo_f": _array("residuals of forces", "M", "N", 3),
}


# ---- the check --------------------------------------------------------------------------------------------------


def check_entries(entries: dict[str, Any], schema: Schema, source: str) -> None:
    """Check entries, and give them the types that the schema says: scalars and texts have no axes, integers are int64.

    Raises
    ------
    DataError
        Names `source`, the entry, what was found and what is wanted.
    """
    sizes: dict[str, int] = {}
    for key, form in schema.items():
        if entries.get(key) is None:
            continue
        checked = _checked(entries[key], form, key, source)
        _require_shape(checked.shape, form, key, source, sizes)
        if key == "perms":
            sizes.setdefault("P", 1)
        if key == "z":
            sizes["D"] = sizes["N"] * (sizes["N"] - 1) // 2
        if checked.shape != np.shape(entries[key]) or checked.dtype != np.asarray(entries[key]).dtype:
            entries[key] = checked
        if form.group:
            try:
                check_group(entries[key], entries["z"])
            except DataError as error:
                raise DataError(f"{source}: {error}") from None


def _checked(value: Any, form: Form, key: str, source: str) -> npt.NDArray[Any]:
    """Return an entry as an array of its kind and range."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise _wrong(source, key, form, "a list that is no array") from None
    if array.size == 1 and array.ndim and form.shapes == ((),):
        array = array.reshape(())
    if array.dtype.kind not in form.kinds and array.size:
        if form.kinds in ("iu", "biu") and array.dtype.kind == "f" and _are_integers(array):
            array = array.astype(np.int64)
        else:
            raise _wrong(source, key, form, _found(array))
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):  # of another precision or byte order
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    if form.is_text and array.dtype.kind in "US" and array.ndim and form.shapes == ((),):
        array = _one_text(array, form, key, source)
    if array.dtype.kind not in "iuf" or not array.size:
        return array
    lowest, highest = array.min(), array.max()  # NaN if one is
    if form.finite and not (np.isfinite(lowest) and np.isfinite(highest)):
        first = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        where = f" (the first at {first})" if array.ndim else ""
        raise _wrong(source, key, form, f"numbers that are not finite{where}" if array.ndim else repr(array.item()))
    if lowest < form.least or highest > form.most or (form.positive and lowest <= form.least):
        found = f"numbers from {lowest} to {highest}" if array.ndim else repr(array.item())
        raise _wrong(source, key, form, found)
    return array


def _one_text(array: npt.NDArray[Any], form: Form, key: str, source: str) -> npt.NDArray[Any]:
    """Return an array of equal texts, as of one name for each geometry, as that text."""
    distinct = np.unique(array)
    if len(distinct) > 1:
        raise _wrong(source, key, form, f"{len(distinct)} different texts")
    return np.array(text(distinct[0])) if len(distinct) else np.array("")


def _require_shape(shape: tuple[int, ...], form: Form, key: str, source: str, sizes: dict[str, int]) -> None:
    """Raise DataError unless a shape is one of those of a form; note the sizes of symbols that have none yet."""
    for wanted in form.shapes:
        here = (math.prod(shape),) if form.flat and len(wanted) == 1 else shape
        if len(here) != len(wanted):
            continue
        known = dict(sizes)
        if all(_fits(n, size, known) for n, size in zip(here, wanted, strict=True)):
            sizes.update({symbol: known[symbol] for symbol in _BOUND if symbol in known})
            return
    shapes = " or ".join(_in_numbers(each, sizes) for each in form.shapes)
    found = "one value" if shape == () else f"shape {shape}"
    raise _wrong(source, key, form, found, f", of shape {shapes}" if form.shapes != ((),) else "")


def _fits(n: int, size: str | int, known: dict[str, int]) -> bool:
    if isinstance(size, int):
        return n == size
    if " " in size:
        return _product(size, known) in (n, None)
    return n == known.setdefault(size, n)


def _product(size: str, known: Mapping[str, int]) -> int | None:
    factors = [int(each) if each.isdigit() else known.get(each) for each in size.split()]
    return None if None in factors else math.prod(int(each) for each in factors if each is not None)


def _in_numbers(shape: Shape, sizes: Mapping[str, int]) -> str:
    """Return a shape in symbols, and in numbers where they are known."""
    symbols = [str(each) for each in shape]
    numbers = [str(_product(each, sizes) or each) for each in symbols]
    as_tuple = [f"({', '.join(each)}{',' * (len(each) == 1)})" for each in (symbols, numbers)]
    return " = ".join(dict.fromkeys(as_tuple))


def _are_integers(array: npt.NDArray[Any]) -> bool:
    return bool((np.isfinite(array) & (np.abs(array) < 2**53) & (array == np.round(array))).all())


def _found(array: npt.NDArray[Any]) -> str:
    return repr(array.item())[:40] if array.ndim == 0 else f"{array.dtype} of shape {array.shape}"


def _wrong(source: str, key: str, form: Form, found: str, shape: str = "") -> DataError:
    return DataError(
        f"{source}: {key} must be {form.what}{shape}; found {found}. It is damaged, or of an unknown version."
    )
