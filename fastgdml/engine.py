"""What computes the predictions of `GDMLPredict`: the native core, or a device (`fastgdml.gpu.predict`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .descriptor import Array, geometry_error, require_geometries
from .errors import DataError, UsageError
from .model_arrays import ModelArrays, cell_of
from .native import _core


class Engine(ABC):
    """A trained model, and one way to predict with it. N atoms, M training points, D pairs of atoms.

    An engine does not change, so threads and objects may share one: other coefficients make another engine. All that
    predictions depend on is in the model, not in further arguments.

    Attributes
    ----------
    native : _core.Model
        The model of the C library.
    arrays : ModelArrays
        What the model is made of; of a flat file not before it is needed.
    """

    def __init__(self, native: _core.Model, arrays: ModelArrays | None = None) -> None:
        self.native = native
        self._samples: list[Engine] | None = None
        properties = native.properties()
        self._needs_cell = properties["periodic"] and "lattice" not in properties
        if arrays is not None:
            self.arrays = arrays

    @cached_property
    def arrays(self) -> ModelArrays:
        """What the model is made of."""
        return ModelArrays.of_native(self.native)

    @abstractmethod
    def predict(
        self,
        R: Any,
        return_E: bool = True,
        cell: Cell | None = None,
        return_virial: bool = False,
        n_threads: int = 1,
    ) -> tuple[Any, ...]:
        """Predict energies and forces.

        Parameters
        ----------
        R : array_like, shape (n_geo, 3 N), or (3 N,), (N, 3), (n_geo, N, 3)
            Cartesian coordinates.
        return_E : bool
            False leaves out the energies.
        cell : Cell, optional
            Periodic cell or cells to predict in; the model's own by default.
        return_virial : bool
            Also return virials.
        n_threads : int
            Number of threads of the processor.

        Returns
        -------
        tuple of array
            What is wanted of: energies (n_geo,), forces (n_geo, 3 N), virials (n_geo, 3, 3), in this order.

        Raises
        ------
        DataError
            If the number of coordinates or of cells does not fit, a coordinate is not finite, or two atoms coincide.
        UsageError
            If a cell is needed but not given.
        """

    def predict_std(self, R: Any, cell: Cell | None = None, n_threads: int = 1) -> tuple[Any, Any, Any, Any, Any]:
        """Predict with standard deviations, by a model with samples.

        Here by one more prediction for each sample.

        Parameters
        ----------
        R, cell, n_threads
            See `predict`.

        Returns
        -------
        tuple of array
            Energies (n_geo,), forces (n_geo, 3 N), virials (n_geo, 3, 3), standard deviations of energies (n_geo,) and
            of forces (n_geo, N), each a component's on that atom.

        Raises
        ------
        DataError, UsageError
            As of `predict`.
        """
        samples = self.arrays.samples
        if samples is None:
            raise UsageError("The model has no samples for standard deviations.")
        if self._samples is None:
            alphas_E = [None] * len(samples.v) if samples.alphas_E is None else samples.alphas_E
            self._samples = [
                self.with_coefficients(v, energies, float(c))
                for v, energies, c in zip(samples.v, alphas_E, samples.c, strict=True)
            ]
        E, F, virial = self.predict(R, True, cell, True, n_threads)
        squared_E: Any = 0.0
        squared_F: Any = 0.0
        for engine in self._samples:
            E_sample, F_sample = engine.predict(R, True, cell, False, n_threads)
            squared_E = squared_E + E_sample**2
            squared_F = squared_F + (F_sample.reshape(len(F_sample), -1, 3) ** 2).mean(axis=2)
        n_samples = len(self._samples)
        E_std, F_std = (samples.scale * (squared / n_samples) ** 0.5 for squared in (squared_E, squared_F))
        return E, F, virial, E_std, F_std

    @abstractmethod
    def hessian(self, R: Any, cell: Cell | None = None, n_threads: int = 1) -> tuple[Any, Any, Any]:
        """Predict energies (n_geo,), forces (n_geo, 3 N) and Hessians (n_geo, 3 N, 3 N); otherwise as `predict`."""

    @abstractmethod
    def predict_descriptors(self, x: Any, g: Any, return_E: bool = True, n_threads: int = 1) -> tuple[Any, ...]:
        """Predict from descriptors (n_geo, D) and compressed Jacobians (n_geo, D, 3); otherwise as `predict`."""

    @abstractmethod
    def with_coefficients(self, v: Array, alphas_E: Array | None = None, c: float | None = None) -> Engine:
        """Return an engine with other coefficients: J alpha (M, D), those of energy constraints (M,), and the constant.

        Without the last, the constant stays as it is.
        """

    @abstractmethod
    def batch_size(self, n_geo: int) -> int | None:
        """Return how many of `n_geo` geometries are predicted at once with the memory free now; None: any number."""


def missing_cell_error() -> UsageError:
    """Return the error for a model of several cells that is asked to predict in none."""
    return UsageError(
        "This model was trained on geometries with different lattice vectors: say which to predict with, "
        "predict(R, lattice=...), of shape (3, 3) or (n_geo, 3, 3), vectors as columns."
    )


class NativeEngine(Engine):
    """Predict with the native core on the processor.

    Parameters
    ----------
    native : _core.Model
        The model.
    arrays : ModelArrays, optional
        What it was made of; taken from it by default, when they are needed.
    """

    def __init__(self, native: _core.Model, arrays: ModelArrays | None = None) -> None:
        super().__init__(native, arrays)
        properties = native.properties()
        self._n_coord = 3 * len(properties["z"])
        cell = cell_of(properties)
        self._cell = None if cell is None else cell.native

    def predict(
        self,
        R: npt.ArrayLike,
        return_E: bool = True,
        cell: Cell | None = None,
        return_virial: bool = False,
        n_threads: int = 1,
    ) -> tuple[Array, ...]:
        """See `Engine.predict`."""
        r, native_cell = self._native_input(R, cell)
        E, F, virial, bad = self.native.predict(r, native_cell, return_E, True, return_virial, n_threads)
        if bad >= 0:
            raise geometry_error(r[bad].reshape(-1, 3), bad)
        if return_virial:
            return (E, F, virial) if return_E else (F, virial)
        return (E, F) if return_E else (F,)

    def predict_std(
        self, R: npt.ArrayLike, cell: Cell | None = None, n_threads: int = 1
    ) -> tuple[Array, Array, Array, Array, Array]:
        """See `Engine.predict_std`; here in one pass."""
        r, native_cell = self._native_input(R, cell)
        E, F, virial, E_std, F_std, bad = self.native.predict_std(r, native_cell, n_threads)
        if bad >= 0:
            raise geometry_error(r[bad].reshape(-1, 3), bad)
        return E, F, virial, E_std, F_std

    def hessian(self, R: npt.ArrayLike, cell: Cell | None = None, n_threads: int = 1) -> tuple[Array, Array, Array]:
        """See `Engine.hessian`."""
        r, native_cell = self._native_input(R, cell)
        E, F, H, bad = self.native.hessian(r, native_cell, n_threads)
        if bad >= 0:
            raise geometry_error(r[bad].reshape(-1, 3), bad)
        return E, F, H

    def _native_input(self, R: npt.ArrayLike, cell: Cell | None) -> tuple[Array, _core.Cells | None]:
        """Return geometries (n_geo, 3 N) and the cells to predict them in, checked."""
        r = np.ascontiguousarray(R, np.float64)
        if r.ndim != 2 or r.shape[1] != self._n_coord:
            require_geometries(r.shape, self._n_coord // 3)
            r = r.reshape(-1, self._n_coord)
        if cell is None:
            if self._needs_cell:
                raise missing_cell_error()
            return r, self._cell
        cell.require_for(len(r))
        return r, cell.native

    def predict_descriptors(
        self, x: npt.ArrayLike, g: npt.ArrayLike, return_E: bool = True, n_threads: int = 1
    ) -> tuple[Array, ...]:
        """See `Engine.predict_descriptors`."""
        x, g = np.ascontiguousarray(x, dtype=np.float64), np.ascontiguousarray(g, dtype=np.float64)
        E, F = np.empty(len(x)), np.empty((len(x), self._n_coord))
        try:
            self.native.predict_descriptors(x, g, E, F, n_threads)
        except ValueError as error:
            raise DataError(f"Descriptors and Jacobians do not fit the model: {error}.") from None
        return (E, F) if return_E else (F,)

    def with_coefficients(self, v: Array, alphas_E: Array | None = None, c: float | None = None) -> NativeEngine:
        """See `Engine.with_coefficients`."""
        arrays = self.arrays.with_coefficients(v, alphas_E, c)
        return NativeEngine(arrays.native(), arrays)

    def batch_size(self, n_geo: int) -> int | None:
        """See `Engine.batch_size`."""
        return None
