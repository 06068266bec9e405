"""Few geometries on one device, by the kernels of cuda/predict.cu: two launches, no wait in between."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np

from ..cell import Cell
from ..types import Array
from .arrays import copy_async, new_stream, pinned
from .kernel import load_cuda
from .model import DeviceModel

_log = logging.getLogger(__name__)

# As in predict.cu: training points of a tile, permutations summed together, threads of a block.
_TILE = 8
_PERMS = 4
_THREADS = 256
_VIRIAL_THREADS = 128
# Shared memory that a thread block may have on any device without asking, less the static part, in bytes.
_SHARED_MEMORY = 47 * 1024
# Shapes of calls from the host whose buffers and graphs are kept.
_MAX_CALLS = 4
# Geometries of a launch: the second dimension of a grid.
MAX_GEOMETRIES = 65535

# Energies (n_geo,), forces (n_geo, 3 N), virials (n_geo, 3, 3) or None, and which geometries (n_geo,) are unusable.
Results = tuple[Any, Any, Any, Any]


class Fused:
    """Predict with the kernels of cuda/predict.cu, which say how they work.

    Data on the device are used where they are, on the current stream. Calls from the host have a stream and pinned
    buffers of their own for each shape of call; from the second call of a shape on, copies and launches are a captured
    CUDA graph.

    Parameters
    ----------
    model : DeviceModel
        On the device that is to predict, which must be the current one in all calls. With precision 'mixed' sums over
        pairs and training points are in pairs of floats.
    """

    _TILE_SUMS: ClassVar = {"double": "tile_sums", "mixed": "tile_sums_mixed"}

    def __init__(self, model: DeviceModel) -> None:
        self.model = model
        self._tile_sums, self._forces, self._virials = (
            load_cuda("predict", model.xp, name) for name in (self._TILE_SUMS[model.precision], "forces", "virials")
        )
        self.n_tiles = -(-model.n_train // _TILE)
        self._chunk = min(model.n_perms, (_SHARED_MEMORY // 8 - model.n_desc) // (2 * _TILE))
        self._lock = threading.Lock()
        self._calls: OrderedDict[tuple[int, tuple[int, int], bool], _HostCall] = OrderedDict()
        self._last_cell: tuple[Cell | None, Array] = (None, _pack(None))

    @staticmethod
    def fits(model: DeviceModel) -> bool:
        """Return whether the kernels know the descriptor: no weights, up to about 100 atoms, for shared memory."""
        return model.weights is None and 8 * (model.n_desc + 2 * _TILE * min(model.n_perms, _PERMS)) <= _SHARED_MEMORY

    def predict(self, r: Any, cell: Cell | None, virials: bool) -> Results:
        """Predict from coordinates (n_geo, N, 3) on the device; the results are there, too. Waits for nothing."""
        xp, n_geo = self.model.xp, len(r)
        cells = self._cells(cell)
        outputs = _Outputs(self, n_geo, virials)
        self.launch(xp.ascontiguousarray(r), xp.asarray(cells), cells.shape, outputs)
        E, F, virial, unusable = _split(outputs.flat, n_geo, self.model.n_atoms)
        return E, F, virial, unusable != 0

    def predict_from_host(self, r: Array, cell: Cell | None, virials: bool) -> Results:
        """Predict from NumPy coordinates (n_geo, N, 3); the results are NumPy arrays."""
        with self._lock:
            cells = self._cells(cell)
            key = (len(r), cells.shape, virials)
            call = self._calls.pop(key, None) or _HostCall(self, *key)
            flat = call.run(r, cells)
            # Only now: a call that failed is not used again.
            self._calls[key] = call
            if len(self._calls) > _MAX_CALLS:
                self._calls.popitem(last=False)
        E, F, virial, unusable = _split(flat, len(r), self.model.n_atoms)
        return E, F, virial, unusable != 0

    def launch(self, r: Any, cells: Any, cells_shape: tuple[int, int], out: _Outputs) -> None:
        """Launch the kernels on the current stream."""
        m, n_geo = self.model, out.n_geo
        n_cells, stride = cells_shape
        n_shifts = (stride - 18) // 3 if n_cells else -1
        geometry = (np.int32(n_shifts), np.int32(stride if n_cells > 1 else 0))
        sizes = (np.int32(m.n_atoms), np.int32(m.n_train), np.int32(m.n_perms), *geometry, np.int32(self._chunk))
        self._tile_sums(
            (self.n_tiles, n_geo),
            (_THREADS,),
            (
                *(r, cells, m.fused_xv, m.center, m.energies, m.images, m.back, out.partial, out.unusable),
                *(*sizes, np.float64(m.q)),
            ),
            shared_mem=8 * (m.n_desc + 2 * _TILE * self._chunk),
        )
        # A of bulk.py without its exponential.
        front = m.std * 5.0 / (3.0 * m.sig**2)
        force_sizes = (np.int32(m.n_atoms), np.int32(self.n_tiles), *geometry, np.int32(out.virials))
        scales = (np.float64(front), np.float64(front / m.q), np.float64(m.c))
        self._forces(
            (m.n_atoms, n_geo),
            (_THREADS,),
            (r, cells, out.partial, out.energy, out.force, out.atom_virial, *force_sizes, *scales),
            shared_mem=8 * m.n_atoms * (12 if out.virials else 3),
        )
        if out.virials:
            self._virials(
                (-(-9 * n_geo // _VIRIAL_THREADS),),
                (_VIRIAL_THREADS,),
                (out.atom_virial, out.virial, np.int32(m.n_atoms), np.int32(n_geo)),
            )

    def _cells(self, cell: Cell | None) -> Array:
        """Return the tables of a cell as the kernels take them; those of the last one are kept."""
        known, tables = self._last_cell
        if cell is not known:
            tables = _pack(cell)
            self._last_cell = (cell, tables)
        return tables


class _Outputs:
    """Device memory for the results of n_geo geometries, all in `flat`, and for what lies between the launches."""

    def __init__(self, fused: Fused, n_geo: int, virials: bool) -> None:
        m, xp = fused.model, fused.model.xp
        self.n_geo, self.virials = n_geo, virials
        self.flat = xp.empty(_flat_size(n_geo, m.n_atoms, virials))
        self.energy, self.force, self.virial, self.unusable = _split(self.flat, n_geo, m.n_atoms)
        self.partial = xp.empty((n_geo, m.n_desc + 1, fused.n_tiles))
        # Not touched without virials.
        self.atom_virial = xp.empty((n_geo, m.n_atoms, 9)) if virials else self.force


class _HostCall:
    """Calls of one shape from the host: pinned buffers, device memory, a stream, and a graph once it pays."""

    def __init__(self, fused: Fused, n_geo: int, cells_shape: tuple[int, int], virials: bool) -> None:
        m, xp = fused.model, fused.model.xp
        self._fused, self._cells_shape = fused, cells_shape
        self._n_coord = 3 * n_geo * m.n_atoms
        n_in = self._n_coord + cells_shape[0] * cells_shape[1]
        self._stream = new_stream(xp)
        # CuPy's pool hands memory of a stream out again at once, in the order of that stream.
        with self._stream:
            self._device_in, self._outputs = xp.empty(n_in), _Outputs(fused, n_geo, virials)
        self._host_in, self._host_out = pinned(n_in, xp), pinned(len(self._outputs.flat), xp)
        self._graph: Any = None
        self._n_runs = 0

    def run(self, r: Array, cells: Array) -> Array:
        """Return the results, in one array."""
        self._host_in[: self._n_coord] = r.ravel()
        self._host_in[self._n_coord :] = cells.ravel()
        self._n_runs += 1
        # The first run compiles and loads the kernels; only a second one makes a graph worth its while.
        if self._n_runs == 2:
            self._capture()
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            with self._stream:
                self._enqueue()
        self._stream.synchronize()
        return self._host_out.copy()

    def _enqueue(self) -> None:
        r, cells = self._device_in[: self._n_coord], self._device_in[self._n_coord :]
        xp = self._fused.model.xp
        copy_async(self._device_in, self._host_in, self._stream, xp)
        self._fused.launch(r, cells, self._cells_shape, self._outputs)
        copy_async(self._host_out, self._outputs.flat, self._stream, xp)

    def _capture(self) -> None:
        stream = self._stream
        try:
            with stream:
                stream.begin_capture()
                try:
                    self._enqueue()
                finally:
                    graph = stream.end_capture()
        except RuntimeError as error:  # CUDARuntimeError is one
            _log.info("No CUDA graph, the kernels are launched one by one: %s", error)
        else:
            self._graph = graph


def _pack(cell: Cell | None) -> Array:
    """Return the tables of each cell in a row: basis, inverse, shifts; no row for a molecule."""
    if cell is None:
        return np.empty((0, 18))
    tables = cell.native.tables()
    return np.concatenate([table.reshape(len(table), -1) for table in tables], axis=1)


def _flat_size(n_geo: int, n_atoms: int, virials: bool) -> int:
    return n_geo * (2 + 3 * n_atoms + (9 if virials else 0))


def _split(flat: Any, n_geo: int, n_atoms: int) -> Results:
    """Return views of energies, forces, virials (None if `flat` has none), and flags of unusable geometries."""
    end = n_geo * (1 + 3 * n_atoms)
    virial = flat[end : end + 9 * n_geo].reshape(n_geo, 3, 3) if len(flat) > end + n_geo else None
    return flat[:n_geo], flat[n_geo:end].reshape(n_geo, 3 * n_atoms), virial, flat[-n_geo:]
