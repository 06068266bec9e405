"""Names of sgdml's Python API that belong to its worker processes, kept so that scripts which use them run.

fastgdml has threads inside its native code instead of processes: there are no workers, chunks or shared memory to
tune. Setters do nothing; functions compute in the calling process what one worker of sgdml computes.
"""

from __future__ import annotations

import copy
import itertools
import multiprocessing as mp
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .descriptor import n_atoms_of, perms_from_lin
from .engine import Engine
from .errors import DataError, UsageError
from .group import GroupTables
from .kernel import assemble_columns, assemble_full, check_columns, energies_last
from .training_set import TrainingSet
from .types import Array, IntArray, Progress

# ---- prediction -------------------------------------------------------------------------------------------------

_predictors: weakref.WeakValueDictionary[int, LegacyPredict] = weakref.WeakValueDictionary()
_next_id = itertools.count()


class LegacyPredict:
    """Setters of sgdml's `GDMLPredict` without effect here, and a few old names."""

    n_train: int
    std: float
    c: float
    predict: Callable[..., Any]
    prepare_parallel: Callable[..., Any]
    _engine: Engine
    _R_desc: Array | None
    _R_d_desc: Array | None

    @property
    def glob_id(self) -> int:
        """Number of this object, for `_predict_wkr`."""
        if not hasattr(self, "_glob_id"):
            self._glob_id = next(_next_id)
            _predictors[self._glob_id] = self
        return self._glob_id

    def _set_num_workers(self, num_workers: int | None = None, force_reset: bool = False) -> None:
        """Do nothing: there are no worker processes. `max_processes` of the constructor sets the threads."""

    def _set_chunk_size(self, chunk_size: int | None = None) -> None:
        """Do nothing: the division of the work follows from the model and the number of geometries."""

    def _set_batch_size(self, batch_size: int | None = None) -> None:
        """Do nothing, as `_set_chunk_size`."""

    def _set_bulk_mp(self, bulk_mp: bool = False) -> None:
        """Do nothing: `predict` divides the work over geometries or over training points by itself."""

    def set_num_workers(self, num_workers: int | None = None) -> None:
        """Do nothing, as `_set_num_workers`; an old name."""

    def set_batch_size(self, batch_size: int | None = None) -> None:
        """Do nothing, as `_set_chunk_size`; an old name."""

    def set_opt_num_workers_and_batch_size_fast(self, n_bulk: int = 1, n_reps: int = 1) -> float:
        """Return the speed of prediction. Deprecated: use `prepare_parallel`.

        Parameters
        ----------
        n_bulk : int
            Number of geometries of one call to `predict`.
        n_reps : int
            At least this many repetitions.

        Returns
        -------
        float
            Geometries per second.
        """
        warnings.warn(
            "set_opt_num_workers_and_batch_size_fast() is deprecated; use prepare_parallel().",
            DeprecationWarning,
            stacklevel=2,
        )
        return float(self.prepare_parallel(n_bulk, n_reps))

    def get_GPU_batch(self) -> int | None:
        """Return how many geometries the GPU predicts at once with the memory that is free now; None on the CPU."""
        return self._engine.batch_size(sys.maxsize)


def share_array(arr_np: npt.ArrayLike) -> tuple[Any, tuple[int, ...]]:
    """Copy an array to shared memory as float64.

    Parameters
    ----------
    arr_np : array_like

    Returns
    -------
    ctypes array
        The elements, in C order.
    tuple of int
        The shape of `arr_np`.
    """
    return _share_array(arr_np, "d")


def _predict_wkr(
    r: npt.ArrayLike | None,
    r_desc_d_desc: tuple[Array, Array] | None,
    lat_and_inv: tuple[Array, Array] | None,
    glob_id: int,
    wkr_start_stop: tuple[int, int] | None = None,
    chunk_size: int | None = None,
) -> Array:
    """Evaluate the part of a prediction that some of the training points contribute.

    Parameters
    ----------
    r : array_like, shape (3 N,), optional
        One geometry.
    r_desc_d_desc : tuple of ndarray, shapes (D,) and (D, 3), optional
        Its descriptor and compressed Jacobian, instead of `r`.
    lat_and_inv : tuple of ndarray, optional
        Lattice vectors as columns and their inverse. Ignored: the lattice of the model holds.
    glob_id : int
        The attribute of that name of a `GDMLPredict`.
    wkr_start_stop : tuple of int, optional
        First training point and the one behind the last; all by default.
    chunk_size : int, optional
        Ignored.

    Returns
    -------
    ndarray, shape (3 N + 1,)
        Energy, then forces, before the model's scale `std` and constant `c` are applied: the sum over all training
        points, times `std`, gives the forces and the energy less `c`.

    Raises
    ------
    UsageError
        If no `GDMLPredict` of that number is alive, or neither `r` nor `r_desc_d_desc` is given.
    """
    predictor = _predictors.get(glob_id)
    if predictor is None:
        raise UsageError(f"There is no predictor of number {glob_id}: give the attribute glob_id of a GDMLPredict.")
    part = copy.copy(predictor)
    if wkr_start_stop is not None and tuple(wkr_start_stop) != (0, predictor.n_train):
        chosen = np.zeros(predictor.n_train)
        chosen[slice(*wkr_start_stop)] = 1.0
        arrays = predictor._engine.arrays
        alphas_E = None if arrays.alphas_E is None else arrays.alphas_E * chosen
        part._engine = predictor._engine.with_coefficients(arrays.v * chosen[:, None], alphas_E)
    if r_desc_d_desc is not None:
        part._R_desc, part._R_d_desc = (np.asarray(a, dtype=np.float64)[None] for a in r_desc_d_desc)
        E, F = part.predict()
    elif r is not None:
        E, F = part.predict(r)
    else:
        raise UsageError("Give either r or r_desc_d_desc; both are None.")
    return np.concatenate([E - predictor.c, F[0]]) / predictor.std


# ---- training ---------------------------------------------------------------------------------------------------

# What `_assemble_kernel_mat_wkr` works on: sgdml's keys R_desc, R_d_desc and K, each with a key for its shape
# (R_desc_shape, ...). Empty unless a script fills it; fastgdml itself passes arrays as arguments.
glob: dict[str, Any] = {}


def _share_array(arr_np: npt.ArrayLike, typecode_or_type: Any) -> tuple[Any, tuple[int, ...]]:
    """Copy an array to shared memory.

    Parameters
    ----------
    arr_np : array_like
    typecode_or_type : str or ctypes type
        Type of the elements: a typecode of the standard module `array`, or a ctypes type.

    Returns
    -------
    ctypes array
        The elements, in C order.
    tuple of int
        The shape of `arr_np`.
    """
    array = np.asarray(arr_np)
    shared = mp.RawArray(typecode_or_type, array.size)
    np.ctypeslib.as_array(shared)[...] = array.ravel()
    return shared, array.shape


def kernel_matrix(
    R_desc: npt.ArrayLike,
    R_d_desc: npt.ArrayLike,
    tril_perms_lin: npt.ArrayLike,
    sig: float,
    use_E_cstr: bool = False,
    col_idxs: slice | npt.ArrayLike = slice(None),
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Assemble the kernel matrix with sgdml's arguments and order of rows; see `GDMLTrain._assemble_kernel_mat`."""
    x, g = np.asarray(R_desc, dtype=np.float64), np.asarray(R_d_desc, dtype=np.float64)
    if x.ndim != 2 or g.shape != (*x.shape, 3) or len(x) == 0:
        raise DataError(f"R_desc must have shape (M, D), R_d_desc (M, D, 3); found {x.shape} and {g.shape}.")
    if not (np.isfinite(sig) and sig > 0):
        raise DataError(f"sig must be a positive number; found {sig}.")
    tables = GroupTables.from_perms(perms_from_lin(tril_perms_lin, x.shape[1]))
    training = TrainingSet(x, g, tables, float(sig), bool(use_E_cstr))
    if not use_E_cstr and isinstance(col_idxs, slice) and col_idxs == slice(None):
        return assemble_full(training, n_threads, progress)
    n_rows = training.n_coord * training.n_train
    cols = check_columns(np.arange(n_rows)[col_idxs] if isinstance(col_idxs, slice) else col_idxs, n_rows)
    if not use_E_cstr:
        return assemble_columns(training, cols, n_threads, progress)
    order = energies_last(training.n_train, training.n_atoms)
    picked = np.sort(order[cols])
    K = assemble_columns(training, picked, n_threads, progress)
    return K[np.ix_(order, np.searchsorted(picked, order[cols]))]


def _assemble_kernel_mat_wkr(
    j: int | tuple[int, int, npt.ArrayLike],
    tril_perms_lin: IntArray,
    sig: float,
    use_E_cstr: bool = False,
    exploit_sym: bool = False,
    cols_m_limit: int | None = None,
) -> int:
    """Compute the columns of the kernel matrix that belong to one training point, in ``glob["K"]``.

    `GDMLTrain._assemble_kernel_mat` returns the matrix itself and is the better choice.

    Parameters
    ----------
    j : int or tuple
        The training point; from M on, the energy constraint of point j - M. Or (first column in K, training point,
        coordinates of that point).
    tril_perms_lin : ndarray of int, shape (P * D,)
        Permutations of pairs.
    sig : float
        Length scale.
    use_E_cstr : bool
        Include energy constraints.
    exploit_sym : bool
        Also fill the rows that belong to the point, by symmetry.
    cols_m_limit : int, optional
        With `exploit_sym`: only as far as this many training points.

    Returns
    -------
    int
        Number of columns computed.

    Raises
    ------
    UsageError
        If `glob` has not been filled.
    """
    if "K" not in glob:
        raise UsageError(
            "_assemble_kernel_mat_wkr works on shared arrays in fastgdml.legacy.glob, which is empty. Call "
            "GDMLTrain._assemble_kernel_mat(..., col_idxs=...) instead: it returns the matrix."
        )
    R_desc, R_d_desc, K = (
        np.frombuffer(glob[key]).reshape(glob[f"{key}_shape"]) for key in ("R_desc", "R_d_desc", "K")
    )
    n_train, n_coord = len(R_desc), 3 * n_atoms_of(R_desc.shape[1])
    if isinstance(j, tuple):
        first, point, coordinates = j
        col_idxs = point * n_coord + np.arange(n_coord)[np.asarray(coordinates)]
    else:
        first = j * n_coord if j < n_train else n_train * n_coord + j - n_train
        col_idxs = np.arange(first, first + (n_coord if j < n_train else 1))
    columns = slice(first, first + len(col_idxs))
    block = kernel_matrix(R_desc, R_d_desc, tril_perms_lin, sig, use_E_cstr, col_idxs)
    K[: len(block), columns] = block
    if exploit_sym:
        n_rows = n_coord * (n_train if cols_m_limit is None else cols_m_limit)
        K[columns, :n_rows] = block[:n_rows].T
    return len(col_idxs)
