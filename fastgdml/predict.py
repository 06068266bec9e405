"""Energies and forces from a trained model."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .backend import array_module, require_precision, resolve_backend
from .cell import Cell
from .descriptor import jacobian_dot, n_pairs
from .engine import Engine, NativeEngine
from .errors import DataError, UsageError
from .flat import load_flat, load_image
from .legacy import LegacyPredict, _predict_wkr, share_array  # noqa: F401 (old names of sgdml.predict)
from .model import load_model
from .model_arrays import ModelArrays, image_rule_of
from .native import _core
from .npz import is_flat
from .samples import energy_coefficients
from .threads import resolve_n_threads
from .types import Array

_log = logging.getLogger(__name__)


class GDMLPredict(LegacyPredict):
    """Predict energies and forces with a trained model.

    Objects share no state: any number of models may be alive, and one object may be used from several threads.

    Parameters
    ----------
    model : mapping or path-like
        A model as returned by `GDMLTrain.train` or `load_model`, or a model file: npz, or flat (``.fgdml``, from
        ``fastgdml export``), which is mapped into memory instead of read.
    batch_size, num_workers : int, optional
        Accepted for compatibility with sgdml; without effect, there are no worker processes or chunks to tune.
    max_memory : float, optional
        Accepted for compatibility with sgdml. Prediction needs the model and a few MB.
    max_processes : int, optional
        Number of threads. All by default.
    use_torch : bool
        Accepted for compatibility with sgdml; warns, and predicts on the GPU where there is one.
    log_level : int, optional
        Level of this module's logger.
    backend : {'cpu', 'gpu', 'auto'}
        Where to predict; see `fastgdml.backend.resolve_backend`. All GPUs that are visible (CUDA_VISIBLE_DEVICES) are
        used; arrays on a GPU are predicted there, and the results stay there.
    precision : {'double', 'mixed'}
        Of predictions on a GPU: 'mixed' is for cards with few float64 units, as most people own; forces differ by
        less than 1e-6 of the largest one, see docs/howto/gpu.md for the bound. Without effect on the processor.

    Attributes
    ----------
    z : ndarray of int, shape (n_atoms,)
        Atomic numbers, in the order in which positions are expected.
    n_atoms, n_desc, n_train, n_perms : int
        Atoms, pairs of atoms, training points, permutations.
    sig, std, c : float
        Length scale; scale and offset of the energy.
    e_unit, r_unit : str
        Units of energy and length as recorded, empty where unknown.
    periodic : bool
        Whether the model is of a periodic system.
    lattice : ndarray, shape (3, 3), or None
        The lattice vectors that a periodic model was trained with, as columns; None for a molecule, and if the training
        geometries had different ones.
    n_threads : int
        Number of threads; may be changed.

    Raises
    ------
    DataError
        If the model lacks arrays or they contradict each other.
    FileFormatError
        If a file cannot be read or is no model.
    UsageError
        If a GPU is asked for and there is none, or the precision is unknown.
    """

    def __init__(  # noqa: PLR0913 (sgdml's signature)
        self,
        model: Mapping[str, Any] | str | os.PathLike[str],
        batch_size: int | None = None,
        num_workers: int | None = None,
        max_memory: float | None = None,
        max_processes: int | None = None,
        use_torch: bool = False,
        log_level: int | None = None,
        backend: str = "cpu",
        precision: str = "double",
    ) -> None:
        if log_level is not None:
            _log.setLevel(log_level)
        arrays: ModelArrays | None = None
        if isinstance(model, str | os.PathLike) and is_flat(model):
            native = load_flat(model)
        else:
            entries = load_model(model) if isinstance(model, str | os.PathLike) else model
            arrays = ModelArrays.of(entries)
            native = arrays.native()
        self.n_threads = resolve_n_threads(max_processes)
        properties = native.properties()
        self.z = properties["z"]
        self.n_atoms = len(self.z)
        self.n_desc = n_pairs(self.n_atoms)
        self.n_train: int = properties["n_train"]
        self.n_perms: int = properties["n_perms"]
        self.sig: float = properties["sig"]
        self.std: float = properties["std"]
        self.c: float = properties["c"]
        self.e_unit: str = properties["e_unit"]
        self.r_unit: str = properties["r_unit"]
        self.periodic: bool = properties["periodic"]
        self.lattice: Array | None = properties.get("lattice")
        self._image_rule = image_rule_of(properties)
        self._precision = require_precision(precision)
        self._engine = _engine_of(native, arrays, resolve_backend(backend, use_torch) == "gpu", precision)
        self._R_desc: Array | None = None
        self._R_d_desc: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: the content of the model's file, from which another process has the same numbers.

        A predictor of a GPU needs one there.
        """
        on_gpu = not isinstance(self._engine, NativeEngine)
        arrays = self._engine.arrays if on_gpu else None
        state = {**self.__dict__, "_engine": (self.native.image(), arrays, on_gpu)}
        state.pop("_glob_id", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        image, arrays, on_gpu = state["_engine"]
        self.__dict__.update({**state, "_engine": _engine_of(load_image(image), arrays, on_gpu, state["_precision"])})

    def __copy__(self) -> Self:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that shares the model, which does not change: `set_alphas` takes another one."""
        return self.__copy__()

    @property
    def native(self) -> _core.Model:
        """The model of the C library, ``native.address`` the pointer that its functions take.

        It lives as long as an object refers to it. After `set_alphas` it is another.
        """
        return self._engine.native

    def require_cell(self, lattice: npt.ArrayLike, what: str = "The cell") -> None:
        """Raise DataError unless the model was trained in this cell, which may be turned.

        Models of molecules and of several cells hold in any.

        Parameters
        ----------
        lattice : array_like, shape (3, 3)
            Lattice vectors as columns, in the unit of the model.
        what : str
            What to call the cell in the message.
        """
        columns = np.ascontiguousarray(lattice, dtype=np.float64)
        if columns.shape != (3, 3):
            raise DataError(f"{what} has shape {columns.shape}; three lattice vectors as columns, (3, 3), expected.")
        try:
            self.native.check_lattice(columns)
        except ValueError as error:
            raise DataError(
                f"{what} is not the cell that the model was trained in ({error}), and it holds in no other."
            ) from None

    def predict(
        self,
        R: npt.ArrayLike | None = None,
        return_E: bool = True,
        lattice: npt.ArrayLike | None = None,
        return_virial: bool = False,
        return_std: bool = False,
    ) -> tuple[Array, ...]:
        """Predict energies and forces of geometries.

        Parameters
        ----------
        R : array_like, shape (n_geo, 3 n_atoms), optional
            Cartesian coordinates, atoms in the order of the training set, in its length unit. One geometry may be
            given as (3 n_atoms,) or (n_atoms, 3), several as (n_geo, n_atoms, 3). Without it, the training
            geometries are evaluated.
        return_E : bool
            False leaves out the energies.
        lattice : array_like, shape (3, 3) or (n_geo, 3, 3), optional
            Lattice vectors as columns, for all geometries or for each; those of the model by default. Needed if the
            training geometries had different ones.
        return_virial : bool
            Also return virials.
        return_std : bool
            Also return standard deviations, of a model that was trained with `n_std`.

        Returns
        -------
        E : ndarray, shape (n_geo,)
            Energies, unless `return_E` is False.
        F : ndarray, shape (n_geo, 3 n_atoms)
            Forces.
        virial : ndarray, shape (n_geo, 3, 3)
            Only with `return_virial`: the negative derivative of the energy by the strain of the geometry and its cell,
            in the unit of energy; the stress is -virial / volume. Exact and symmetric: the sum over pairs of atoms of
            distance (outer) force.
        E_std : ndarray, shape (n_geo,)
            Only with `return_std` and `return_E`: standard deviations of the energies.
        F_std : ndarray, shape (n_geo, n_atoms)
            Only with `return_std`: those of forces, of a component on each atom.

        Raises
        ------
        DataError
            If the number of coordinates does not fit the model, a coordinate is not finite, two atoms coincide, or the
            lattice vectors span no cell.
        UsageError
            If a lattice is needed but not given, or given to a model of a molecule; if the model has no samples for
            standard deviations.
        """
        if R is None:
            if lattice is not None:
                raise UsageError("predict(lattice=...) needs geometries R: the training geometries have their own.")
            if return_virial or return_std:
                wanted = "return_virial" if return_virial else "return_std"
                raise UsageError(f"predict({wanted}=True) needs geometries R.")
            return self._predict_training_set(return_E)
        cell = None if lattice is None else self._cell_of(lattice)
        if not return_std:
            results = self._engine.predict(R, return_E, cell, return_virial, self.n_threads)
            _require_finite(results)
            return results
        self.require_std()
        predicted = self._engine.predict_std(R, cell, self.n_threads)
        _require_finite(predicted)
        E, F, virial, E_std, F_std = predicted
        forces = (F, virial) if return_virial else (F,)
        return (E, *forces, E_std, F_std) if return_E else (*forces, F_std)

    @property
    def has_std(self) -> bool:
        """Whether the model has samples for standard deviations."""
        return self.native.properties()["n_std"] > 0

    def require_std(self) -> None:
        """Raise UsageError unless the model has samples for standard deviations."""
        if not self.has_std:
            raise UsageError(
                "The model has no samples for standard deviations: train it with n_std=16 (--std 16). Models whose "
                "coefficients were replaced have none."
            )

    @property
    def std_scale(self) -> float:
        """What standard deviations are multiplied by; 1 without any."""
        return float(self.native.properties()["std_scale"])

    def hessian(self, R: npt.ArrayLike, lattice: npt.ArrayLike | None = None) -> Array:
        """Return the second derivatives of the energy by the positions, d2E/dR2, exactly.

        Parameters
        ----------
        R : array_like, shape (n_geo, 3 n_atoms)
            Cartesian coordinates, or one geometry, as for `predict`.
        lattice : array_like, shape (3, 3) or (n_geo, 3, 3), optional
            Lattice vectors as columns, as for `predict`. They stay fixed; of a periodic system this is the matrix of
            force constants at the Gamma point, all images of an atom moving together.

        Returns
        -------
        ndarray, shape (n_geo, 3 n_atoms, 3 n_atoms)
            In the unit of energy a squared unit of length; symmetric, to the last bit. Equations in src/hessian.c.

        Raises
        ------
        DataError, UsageError
            As of `predict`.
        """
        return self.predict_with_hessian(R, lattice)[2]

    def predict_with_hessian(
        self, R: npt.ArrayLike, lattice: npt.ArrayLike | None = None
    ) -> tuple[Array, Array, Array]:
        """Return energies (n_geo,), forces (n_geo, 3 n_atoms) and Hessians at once; see `predict` and `hessian`."""
        cell = None if lattice is None else self._cell_of(lattice)
        results = self._engine.hessian(R, cell, self.n_threads)
        _require_finite(results)
        return results

    def _cell_of(self, lattice: npt.ArrayLike) -> Cell:
        """Return the cell of these lattice vectors, with the image rule of the model."""
        if self._image_rule is None:
            raise UsageError("This model was trained without lattice vectors; it cannot be used with a lattice.")
        return Cell(lattice, self._image_rule)

    def prepare_parallel(
        self, n_bulk: int = 1, n_reps: int = 1, return_is_from_cache: bool = False
    ) -> float | tuple[float, bool]:
        """Measure the speed of prediction.

        There is nothing to tune: how work is divided follows from the model and the number of geometries. The
        measurement repeats for at most about a tenth of a second.

        Parameters
        ----------
        n_bulk : int
            Number of geometries of one call to `predict`.
        n_reps : int
            At least this many repetitions.
        return_is_from_cache : bool
            Also return False: nothing is ever cached.

        Returns
        -------
        float
            Geometries per second.
        bool
            Only with `return_is_from_cache`.
        """
        # Geometries spread along a line: any set of distinct positions costs the same.
        n_bulk = max(1, int(n_bulk))
        r = np.tile(np.arange(3.0 * self.n_atoms) ** 1.1 + 1.0, (n_bulk, 1))
        lattice = 1e3 * np.eye(3) if self.periodic and self.lattice is None else None
        best, spent, done = np.inf, 0.0, 0
        while done < max(1, n_reps) or (spent < 0.1 and done < 20):
            start = time.perf_counter()
            self.predict(r, lattice=lattice)
            elapsed = time.perf_counter() - start
            best, spent, done = min(best, elapsed), spent + elapsed, done + 1
        rate = n_bulk / best
        return (rate, False) if return_is_from_cache else rate

    # ---- descriptors of the training geometries, and new coefficients for them ---------------------------------

    def set_R_desc(self, R_desc: Array | None) -> None:
        """Set the descriptors (M, D) of the training geometries, for `predict` without arguments."""
        if R_desc is not None and np.shape(R_desc) != (self.n_train, self.n_desc):
            raise UsageError(
                f"R_desc has shape {np.shape(R_desc)}; ({self.n_train}, {self.n_desc}) expected: descriptors of the "
                "training geometries (the transpose of what a model holds)."
            )
        self._R_desc = None if R_desc is None else np.asarray(R_desc, dtype=np.float64)

    def set_R_d_desc(self, R_d_desc: Array | None) -> None:
        """Set the compressed Jacobians (M, D, 3) of the training geometries. `set_alphas` needs them."""
        if R_d_desc is not None and np.shape(R_d_desc) != (self.n_train, self.n_desc, 3):
            raise UsageError(
                f"R_d_desc has shape {np.shape(R_d_desc)}; ({self.n_train}, {self.n_desc}, 3) expected: compressed "
                "Jacobians of the training geometries."
            )
        self._R_d_desc = None if R_d_desc is None else np.asarray(R_d_desc, dtype=np.float64)

    def set_alphas(self, alphas_F: npt.ArrayLike, alphas_E: npt.ArrayLike | None = None) -> None:
        """Replace the coefficients of the model.

        Parameters
        ----------
        alphas_F : array_like, shape (3 N M,)
            Coefficients of the force constraints.
        alphas_E : array_like, shape (M,), optional
            Coefficients of the energy constraints. Without them the model has none from now on.

        Raises
        ------
        UsageError
            If `set_R_d_desc` was not called before, or a length is wrong.
        """
        if self._R_d_desc is None:
            raise UsageError("Call set_R_d_desc() before set_alphas(): J alpha needs the training Jacobians.")
        alphas = np.asarray(alphas_F, dtype=np.float64).ravel()
        if alphas.size != 3 * self.n_atoms * self.n_train:
            raise UsageError(f"alphas_F has {alphas.size} elements; {3 * self.n_atoms * self.n_train} expected.")
        alphas_E = energy_coefficients(alphas_E, self.n_train, UsageError)
        v = jacobian_dot(self._R_d_desc, alphas.reshape(self.n_train, -1))
        self._engine = self._engine.with_coefficients(v, alphas_E)

    def _predict_training_set(self, return_E: bool) -> tuple[Array, ...]:
        if self._R_desc is None or self._R_d_desc is None:
            raise UsageError(
                "predict() without geometries evaluates the training set: set its descriptors first with "
                "set_R_desc() and set_R_d_desc(), or pass R."
            )
        results = self._engine.predict_descriptors(self._R_desc, self._R_d_desc, return_E, self.n_threads)
        _require_finite(results)
        return results


def _require_finite(results: tuple[Array, ...]) -> None:
    """Raise DataError if a prediction is not finite. Positions were: numbers became too large on the way."""
    for values in results:
        if math.isfinite(values.sum()):  # the quick question; the sum of finite numbers may overflow, too
            continue
        wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(wrong):
            raise DataError(
                f"The prediction for geometry {wrong[0]} is not finite: its coordinates, or the coefficients of the "
                "model, are too large for double precision. Repair the geometry, or train the model again."
            )


def _engine_of(native: _core.Model, arrays: ModelArrays | None, on_gpu: bool, precision: str) -> Engine:
    if not on_gpu:
        return NativeEngine(native, arrays)
    from .gpu.predict import GPUPredictor

    return GPUPredictor(native, arrays, array_module("gpu"), precision=precision)
