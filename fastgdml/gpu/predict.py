"""Prediction on one or several devices; the twin of `fastgdml.engine.NativeEngine`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from itertools import cycle, repeat
from types import ModuleType
from typing import Any

import numpy as np

from ..backend import array_module, require_precision
from ..cell import Cell
from ..descriptor import require_geometries
from ..engine import Engine, missing_cell_error
from ..errors import InsufficientMemoryError
from ..model_arrays import ModelArrays
from ..native import _core
from .arrays import (
    copy_to_host,
    device_of,
    new_stream,
    on_device,
    synchronize,
    synchronize_device,
    take,
    to_numpy,
    visible_devices,
)
from .batches import Ranges, work_through
from .bulk import Bulk
from .descriptor import descriptors, unusable_error
from .fused import MAX_GEOMETRIES, Fused, Results
from .hessian import Hessians
from .model import DeviceModel

_log = logging.getLogger(__name__)

# Up to so many terms, geometries times permutations, training points and pairs, the fused kernels predict: there the
# launches of the bulk path, about twenty array operations, cost more than its faster arithmetic saves. An estimate,
# not measured on a device yet: one geometry of 21 atoms with 1000 points and 6 permutations has 1.3 million terms.
_FUSED_TERMS = 2**26


class GPUPredictor(Engine):
    """Predict energies and forces on the devices of this machine.

    Few geometries go through one fused kernel (`fused`), many through products of matrices in batches (`bulk`), which
    are spread over all devices. Data that lie on a device are predicted there, and only there.

    Parameters
    ----------
    native : _core.Model
        The model.
    arrays : ModelArrays, optional
        What it was made of; taken from it by default.
    xp : module, optional
        numpy or cupy; cupy by default. NumPy takes the way of many geometries with any number.
    devices : sequence of int, optional
        Numbers of the devices for data from the host; all that are visible (CUDA_VISIBLE_DEVICES) by default, the
        current one first. The model is copied to each when it is first needed there.
    precision : {'double', 'mixed'}
        'mixed' is for cards whose float64 units are few: products of matrices are made of exact float32 products
        (`slices`), and the fused kernels sum in pairs of floats.
    replicas : dict, optional
        What is on the devices already, by their numbers; only for `with_coefficients`.

    Raises
    ------
    UsageError
        If `xp` is not given and there is no device, or the precision is unknown.
    """

    def __init__(
        self,
        native: _core.Model,
        arrays: ModelArrays | None = None,
        xp: ModuleType | None = None,
        devices: Sequence[int] | None = None,
        precision: str = "double",
        replicas: dict[int, _Replica] | None = None,
    ) -> None:
        super().__init__(native, arrays)
        self._precision = require_precision(precision)
        self.xp = array_module("gpu") if xp is None else xp
        n_train, n_desc = self.arrays.x.shape
        self._n_atoms = len(self.arrays.z)
        self._terms_per_geometry = len(self.arrays.pair_images) * n_train * n_desc
        self._devices = list(visible_devices(self.xp) if devices is None else devices)
        self._replicas = {} if replicas is None else replicas
        self._lock = threading.Lock()
        self._n_users = 0
        self._replica(self._devices[0])

    @classmethod
    def from_model(
        cls,
        model: Mapping[str, Any],
        xp: ModuleType | None = None,
        devices: Sequence[int] | None = None,
        precision: str = "double",
    ) -> GPUPredictor:
        """Return the predictor of a model as made by `GDMLTrain.train` or `load_model`.

        Raises
        ------
        DataError
            If arrays are missing or contradict each other.
        UsageError
            If `xp` is not given and there is no device.
        """
        arrays = ModelArrays.of(model)
        return cls(arrays.native(), arrays, xp, devices, precision)

    def with_coefficients(self, v: Any, alphas_E: Any = None, c: float | None = None) -> GPUPredictor:
        """See `Engine.with_coefficients`.

        The new predictor takes over what this one holds on the devices, captured graphs included, where only the
        coefficients are replaced; this one copies the model anew if it is used again. While this one predicts, in
        another thread, it keeps what it has, and also if the constant changes, which is in the captured graphs.
        """
        arrays = self.arrays.with_coefficients(
            np.asarray(to_numpy(v), dtype=np.float64), None if alphas_E is None else to_numpy(alphas_E), c
        )
        native, replicas = arrays.native(), dict[int, _Replica]()
        with self._lock:
            if self._n_users == 0 and arrays.c == self.arrays.c:
                replicas, self._replicas = self._replicas, replicas
        for number, replica in replicas.items():
            with on_device(number, self.xp):
                replica.set_coefficients(arrays)
        return GPUPredictor(native, arrays, self.xp, self._devices, self._precision, replicas)

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
        R : array_like, shape (n_geo, 3 n_atoms)
            Cartesian coordinates; (3 n_atoms,), (n_atoms, 3) and (n_geo, n_atoms, 3) are accepted, too. Arrays that
            lie on the device (CuPy, PyTorch, JAX, ...: ``__cuda_array_interface__`` or ``__dlpack__``) are used where
            they are.
        return_E : bool
            False leaves out the energies.
        cell : Cell, optional
            Periodic cell or cells to predict in; the model's own by default.
        return_virial : bool
            Also return virials.
        n_threads : int
            Has no effect here.

        Returns
        -------
        E : array, shape (n_geo,)
            Energies, unless `return_E` is False.
        F : array, shape (n_geo, 3 n_atoms)
            Forces.
        virial : array, shape (n_geo, 3, 3)
            Only with `return_virial`; see `GDMLPredict.predict`.

            All are NumPy arrays for data on the host, CuPy arrays for data on the device.

        Raises
        ------
        DataError
            If the number of coordinates does not fit the model, a coordinate is not finite or two atoms coincide.
        UsageError
            If a cell is needed but not given.
        InsufficientMemoryError
            If not even one geometry fits into the memory of the device.
        """
        r, is_on_device = take(R, self.xp)
        device = device_of(r) if is_on_device else None
        with self._in_use(), on_device(self._devices[0] if device is None else device, self.xp):
            r, cell = self._geometries(r, cell)
            E, F, virial, unusable = self._predict(r, device, cell, return_virial)
            _require_usable(r, cell, unusable)
        return tuple(wanted for wanted in (E if return_E else None, F, virial) if wanted is not None)

    def hessian(self, R: Any, cell: Cell | None = None, n_threads: int = 1) -> tuple[Any, Any, Any]:
        """See `Engine.hessian`. One device computes, one geometry after the other, in double precision."""
        r, is_on_device = take(R, self.xp)
        number = device_of(r) if is_on_device else self._devices[0]
        with self._in_use(), on_device(number, self.xp):
            r, cell = self._geometries(r, cell)
            x, g, unusable = descriptors(self.xp.asarray(r), cell, self.arrays.weights, xp=self.xp)
            _require_usable(r, cell, unusable)
            n_coord = 3 * self._n_atoms
            out = self.xp if is_on_device else np
            E, F, H = out.empty(len(r)), out.empty((len(r), n_coord)), out.empty((len(r), n_coord, n_coord))
            hessians = self._replica(number).hessians
            for i in range(len(r)):
                results = hessians.evaluate(x[i], g[i])
                E[i], F[i], H[i] = results if is_on_device else map(to_numpy, results)
        return E, F, H

    def _geometries(self, r: Any, cell: Cell | None) -> tuple[Any, Cell | None]:
        """Return geometries (n_geo, N, 3) and the cells to predict them in, checked."""
        require_geometries(r.shape, self._n_atoms)
        r = r.reshape(-1, self._n_atoms, 3)
        if cell is None and self._needs_cell:
            raise missing_cell_error()
        cell = self.arrays.cell if cell is None else cell
        if cell is not None:
            cell.require_for(len(r))
        return r, cell

    def predict_descriptors(self, x: Any, g: Any, return_E: bool = True, n_threads: int = 1) -> tuple[Any, ...]:
        """See `Engine.predict_descriptors`; data on a device as in `predict`."""
        (x, is_on_device), (g, _) = take(x, self.xp), take(g, self.xp)
        xp = self.xp

        def batch_of(begin: int, end: int) -> tuple[Any, Any, Any]:
            return xp.asarray(x[begin:end]), xp.asarray(g[begin:end]), xp.zeros(end - begin, dtype=bool)

        with self._in_use():
            E, F, _, _ = self._predict_bulk(len(x), batch_of, device_of(x) if is_on_device else None, False)
        return (E, F) if return_E else (F,)

    def batch_size(self, n_geo: int) -> int:
        """Return how many of `n_geo` geometries the first device predicts at once with the memory free now."""
        with self._in_use(), on_device(self._devices[0], self.xp):
            return self._replica(self._devices[0]).bulk.batch_size(n_geo)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep another predictor from taking over what is on the devices."""
        with self._lock:
            self._n_users += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1

    def _replica(self, number: int) -> _Replica:
        """Return the model on a device."""
        with self._lock:
            if number not in self._replicas:
                with on_device(number, self.xp):
                    self._replicas[number] = _Replica(self.arrays, self.xp, self._precision)
            return self._replicas[number]

    def _predict(self, r: Any, device: int | None, cell: Cell | None, virials: bool) -> Results:
        """Predict geometries (n_geo, N, 3) that lie on a device, the current one, or with None on the host."""
        if 0 < len(r) <= MAX_GEOMETRIES and self._terms_per_geometry * len(r) <= _FUSED_TERMS:
            fused = self._replica(self._devices[0] if device is None else device).fused
            if fused is not None:
                try:
                    return (fused.predict_from_host if device is None else fused.predict)(r, cell, virials)
                except MemoryError:
                    _log.info("No device memory for %d geometries at once; trying batches.", len(r))

        def batch_of(begin: int, end: int) -> tuple[Any, Any, Any]:
            part = cell and cell.part(slice(begin, end))
            return descriptors(self.xp.asarray(r[begin:end]), part, self.arrays.weights, xp=self.xp)

        return self._predict_bulk(len(r), batch_of, device, virials)

    def _predict_bulk(
        self, n_geo: int, batch_of: Callable[[int, int], tuple[Any, Any, Any]], device: int | None, virials: bool
    ) -> Results:
        """Predict by matrix products, on one device into its memory, or with device None on all into NumPy arrays.

        `batch_of` returns descriptors, Jacobians and which geometries are unusable for a range, on the current device.
        """
        from_host = device is None
        workers = self._workers(n_geo) if device is None else [device]
        with on_device(workers[0], self.xp):
            results = _new_results(n_geo, self._n_atoms, virials, np if from_host else self.xp)

        def collect(begin: int, end: int, parts: Results, stream: Any) -> None:
            for result, part in zip(results, parts, strict=True):
                if result is not None and from_host:
                    copy_to_host(part, result[begin:end], stream)
                elif result is not None:
                    result[begin:end] = part

        ranges = Ranges(n_geo)

        def work(number: int) -> None:
            # Geometries that cannot be used give infinities, and are reported at the end.
            with on_device(number, self.xp), np.errstate(all="ignore"):
                replica = self._replica(number)

                def compute(begin: int, end: int) -> Results:
                    x, g, unusable = batch_of(begin, end)
                    return *replica.bulk.predict(x, g, virials), unusable

                streams = cycle(replica.streams) if from_host else repeat(nullcontext())
                size = min(replica.bulk.batch_size(n_geo, 2 if from_host else 1), -(-max(n_geo, 1) // len(workers)))
                work_through(ranges, size, streams, compute, collect, self.xp)

        try:
            if len(workers) == 1:
                work(workers[0])
            else:
                jobs = [self._replica(number).thread.submit(work, number) for number in workers]
                wait(jobs)
                for job in jobs:
                    job.result()
        except MemoryError:
            raise self._no_memory_error(workers[0]) from None
        return results

    def _workers(self, n_geo: int) -> list[int]:
        """Return the devices to use: each gets at least what the fused kernels would take at once."""
        return self._devices[: max(1, self._terms_per_geometry * n_geo // _FUSED_TERMS)]

    def _no_memory_error(self, number: int) -> InsufficientMemoryError:
        n_train, n_perms = len(self.arrays.x), len(self.arrays.pair_images)
        size = self._replica(number).bulk.bytes_per_geometry
        return InsufficientMemoryError(
            f"The device has no room for one geometry of {self._n_atoms} atoms with {n_train} training points and "
            f"{n_perms} permutations ({size / 2**20:.0f} MB). Free memory of the device, or predict on the "
            "processor: backend='cpu'."
        )


def _require_usable(r: Any, cell: Cell | None, unusable: Any) -> None:
    """Raise DataError for the first geometry that cannot be used, if there is one."""
    # For data on the device, the one place that waits for it: a geometry that cannot be used must not pass.
    if unusable.any():
        index = int(unusable.argmax())
        raise unusable_error(to_numpy(r[index]), cell and cell.part(slice(index, index + 1)), index)


class _Replica:
    """The model on the current device, with all ways to predict there."""

    def __init__(self, arrays: ModelArrays, xp: ModuleType, precision: str) -> None:
        self.model = DeviceModel(arrays, xp, precision)
        self.bulk = Bulk(self.model)
        self.hessians = Hessians(self.model)
        fused = xp is not np and Fused.fits(self.model)
        self.fused = Fused(self.model) if fused else None
        # Kept, as CuPy keeps memory for each stream.
        self.streams = (new_stream(xp), new_stream(xp))
        self._xp = xp
        # One thread for all calls: what the libraries of CUDA keep for a thread is made once. It starts when needed.
        self.thread = ThreadPoolExecutor(1)

    def set_coefficients(self, arrays: ModelArrays) -> None:
        """Replace the coefficients where they are, after all work that reads them."""
        synchronize_device(self._xp)
        self.model.set_coefficients(arrays.v, arrays.alphas_E)
        # Other streams read these.
        synchronize(self._xp)


def _new_results(n_geo: int, n_atoms: int, virials: bool, out: ModuleType) -> Results:
    virial = out.empty((n_geo, 3, 3)) if virials else None
    return out.empty(n_geo), out.empty((n_geo, 3 * n_atoms)), virial, out.empty(n_geo, dtype=bool)
