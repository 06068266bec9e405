"""Assembly of the kernel matrix on a device; the twin of `fastgdml.kernel`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..descriptor import n_atoms_of
from ..errors import InsufficientMemoryError
from ..kernel import Coordinates
from ..training_set import TrainingSet
from ..types import IntArray, Progress

# Shared memory that a thread block may have on any device without asking, in bytes.
_SHARED_MEMORY = 48 * 1024
_MAX_THREADS = 256  # as __launch_bounds__ in assembly.cu
_WARP = 32
_PROGRESS_STEPS = 50
# Blocks of a launch: their numbers take 8 bytes each on the device.
_MAX_BLOCKS = 2**22
# Elements of the dense Jacobians that array operations work on at once.
_REFERENCE_ELEMENTS = 2**22


@dataclass(frozen=True)
class _Side:
    """The points of the rows, or of the columns, of the blocks that are computed.

    Attributes
    ----------
    x, g : array, shapes (m, D) and (m, D, 3)
        Their descriptors and compressed Jacobians.
    place : ndarray of int32, shape (m, q)
        The row (or column) of each of their coordinates, -1 where it is left out.
    """

    x: Any
    g: Any
    place: np.ndarray


@dataclass(frozen=True)
class _Job:
    """Blocks to be computed, and the matrix that they go to.

    Attributes
    ----------
    rows, cols : _Side
        Where the points of the blocks are looked up, and where elements go.
    blocks : callable
        Numbers (first, stop) of blocks -> the numbers of their points in `rows` and `cols`.
    n_blocks : int
        How many blocks there are.
    matrix : array, shape (n_rows, n_cols)
        In Fortran order.
    """

    rows: _Side
    cols: _Side
    blocks: Callable[[int, int], tuple[IntArray, IntArray]]
    n_blocks: int
    matrix: Any


def assemble_lower(
    training: TrainingSet,
    rows: Coordinates,
    scale: float = 1.0,
    progress: Progress | None = None,
    *,
    xp: ModuleType,
) -> Any:
    """Assemble `scale` times the kernel matrix over chosen coordinates, as a full square matrix.

    Parameters
    ----------
    training : TrainingSet
        What the matrix is made of; its arrays may lie on the device.
    rows : Coordinates
        Which coordinates of each point are rows and columns.
    scale : float
        Factor on every element.
    progress : callable, optional
        Called with (done, total) in arbitrary units.
    xp : module
        numpy or cupy.

    Returns
    -------
    array, shape (n, n)
        In Fortran order. Only elements on and below the diagonal are meaningful.
    """
    side, n_points = _side(training, rows, xp), training.n_train
    matrix = xp.empty((rows.size, rows.size), order="F")
    job = _Job(side, side, _lower_blocks, n_points * (n_points + 1) // 2, matrix)
    return _fill(job, training, scale, progress, xp)


def assemble_rows(
    training: TrainingSet,
    points: range,
    col_points: IntArray,
    cols: Coordinates,
    scale: float = 1.0,
    *,
    xp: ModuleType,
) -> Any:
    """Assemble `scale` times the rows of a range of training points, and of some columns.

    Parameters as for `assemble_lower`, and

    points : range
        Training points whose rows are computed.
    col_points : ndarray of int64, shape (m,)
        Training points of the columns.
    cols : Coordinates
        Which of their coordinates.

    Returns
    -------
    array, shape (len(points) * n_coord, cols.size)
        In Fortran order.
    """
    n_coord = training.n_coord
    row_side = _side(training.part(slice(points.start, points.stop)), Coordinates.full(len(points), n_coord), xp)
    col_side = _side(training.part(xp.asarray(col_points)), cols, xp)
    matrix = xp.empty((len(points) * n_coord, cols.size), order="F")
    job = _Job(row_side, col_side, _all_blocks(len(col_points)), len(points) * len(col_points), matrix)
    return _fill(job, training, scale, None, xp)


def assemble_diagonal(training: TrainingSet, scale: float = 1.0, *, xp: ModuleType) -> Any:
    """Assemble `scale` times the blocks K_ii of all points, shape (M, q, q). Parameters as for `assemble_lower`."""
    n_points, n_coord = training.n_train, training.n_coord
    cols = _side(training, Coordinates.full(n_points, n_coord), xp)
    # The rows of all points are the same: one block beside the other.
    rows = _Side(cols.x, cols.g, np.tile(np.arange(n_coord, dtype=np.int32), (n_points, 1)))
    matrix = xp.empty((n_coord, n_points * n_coord), order="F")
    _fill(_Job(rows, cols, _own_blocks, n_points, matrix), training, scale, None, xp)
    # Blocks are symmetric, but for sets of permutations that are no group.
    return matrix.T.reshape(n_points, n_coord, n_coord).swapaxes(1, 2)


def place_of(coordinates: Coordinates, n_coord: int) -> np.ndarray:
    """Return the row of each coordinate of each point, (M, n_coord) int32; -1 where it is none."""
    n_points = len(coordinates.begin) - 1
    point = np.repeat(np.arange(n_points), np.diff(coordinates.begin))
    place = np.full((n_points, n_coord), -1, dtype=np.int32)
    place[point, coordinates.coord] = np.arange(coordinates.size)
    return place


def _side(training: TrainingSet, coordinates: Coordinates, xp: ModuleType) -> _Side:
    x, g = (xp.asarray(array, dtype=xp.float64) for array in (training.x, training.g))
    return _Side(x, g, place_of(coordinates, training.n_coord))


def _lower_blocks(first: int, stop: int) -> tuple[IntArray, IntArray]:
    """Return the points of blocks on and below the diagonal, numbered (0, 0), (1, 0), (1, 1), (2, 0), and so on."""
    number = np.arange(first, stop, dtype=np.int64)
    row = ((np.sqrt(8.0 * number + 1.0) - 1.0) * 0.5).astype(np.int64)
    # The square root may be off by one unit.
    row -= row * (row + 1) // 2 > number
    row += (row + 1) * (row + 2) // 2 <= number
    return row, number - row * (row + 1) // 2


def _all_blocks(n_cols: int) -> Callable[[int, int], tuple[IntArray, IntArray]]:
    """Return the function that gives the points of blocks of a rectangle, numbered row by row."""
    return lambda first, stop: np.divmod(np.arange(first, stop, dtype=np.int64), n_cols)


def _own_blocks(first: int, stop: int) -> tuple[IntArray, IntArray]:
    """Return the points of blocks of each point with itself."""
    number = np.arange(first, stop, dtype=np.int64)
    return number, number


def _fill(job: _Job, training: TrainingSet, scale: float, progress: Progress | None, xp: ModuleType) -> Any:
    """Compute the blocks of a job, some at a time, and return its matrix."""
    prepare = _with_arrays if xp is np else _with_cuda
    compute, largest = prepare(job, training, float(scale), xp)
    step = job.n_blocks if progress is None else -(-job.n_blocks // _PROGRESS_STEPS)
    step = max(1, min(step, largest))
    for first in range(0, job.n_blocks, step):
        stop = min(first + step, job.n_blocks)
        compute(*job.blocks(first, stop))
        if progress is not None:
            if xp is not np:
                xp.cuda.get_current_stream().synchronize()
            progress(stop, job.n_blocks)
    return job.matrix


def _with_arrays(
    job: _Job, training: TrainingSet, scale: float, xp: ModuleType
) -> tuple[Callable[[IntArray, IntArray], None], int]:
    """Return a function that computes blocks with dense Jacobians, and how many it may be given at once."""
    sig, energies = float(training.sig), training.energies
    pairs = xp.asarray(np.argsort(training.tables.pair, axis=1))  # (P_p x)_k = x[pair[k]]
    J_rows, J_cols = (_dense_jacobian(side.g, xp) for side in (job.rows, job.cols))
    row_of, col_of = (xp.asarray(side.place) for side in (job.rows, job.cols))
    n = J_rows.shape[2]
    n_coord = n + int(energies)

    def compute(row_points: IntArray, col_points: IntArray) -> None:
        i, j = xp.asarray(row_points), xp.asarray(col_points)
        K = xp.zeros((len(i), n_coord, n_coord))
        Ji = J_rows[i]
        for pair in pairs:
            d, Jj = job.rows.x[i] - job.cols.x[j][:, pair], J_cols[j][:, pair]
            norm = xp.sqrt(5 * (d**2).sum(axis=1))[:, None]
            five_b = scale * 25 * xp.exp(-norm / sig) / (3 * sig**4)
            weight = five_b / 5 * sig * (sig + norm)
            u, v = (xp.matmul(J.swapaxes(1, 2), d[:, :, None])[:, :, 0] for J in (Ji, Jj))
            K[:, :n, :n] += (five_b * u)[:, :, None] * v[:, None, :]
            K[:, :n, :n] -= weight[:, :, None] * xp.matmul(Ji.swapaxes(1, 2), Jj)
            if energies:
                K[:, :n, n] += weight * u
                K[:, n, :n] -= weight * v
                K[:, n, n] -= (sig**2 * (0.6 * weight + five_b * norm**2 / 25))[:, 0]
        rows, cols = xp.broadcast_arrays(row_of[i][:, :, None], col_of[j][:, None, :])
        kept = (rows >= 0) & (cols >= 0)
        job.matrix[rows[kept], cols[kept]] = K[kept]

    return compute, max(1, _REFERENCE_ELEMENTS // (J_rows.shape[1] * n))


def _dense_jacobian(g: Any, xp: ModuleType) -> Any:
    """Return the Jacobians of descriptors with all their zeros, (m, D, 3 N)."""
    n_points, n_desc, _ = g.shape
    n_atoms = n_atoms_of(n_desc)
    a, b = (xp.asarray(atom) for atom in np.tril_indices(n_atoms, -1))
    J = xp.zeros((n_points, n_desc, n_atoms, 3))
    J[:, xp.arange(n_desc), b] = g
    J[:, xp.arange(n_desc), a] = -g
    return J.reshape(n_points, n_desc, 3 * n_atoms)


def _with_cuda(
    job: _Job, training: TrainingSet, scale: float, xp: ModuleType
) -> tuple[Callable[[IntArray, IntArray], None], int]:
    """Return a function that computes blocks with cuda/assembly.cu, and how many it may be given at once."""
    tables, n_perms, n_atoms = training.tables, training.n_perms, training.n_atoms
    kernel = load_cuda("assembly", xp)
    per_perm = 8 * (4 + 15 * n_atoms)
    chunk = min(n_perms, max(1, _SHARED_MEMORY // per_perm))
    if chunk * per_perm > _SHARED_MEMORY:
        _raise_shared_memory(kernel, chunk * per_perm, n_atoms, xp)
    threads = min(_MAX_THREADS, -(-(n_atoms**2) // _WARP) * _WARP)
    rows = _expand_pairs(job.rows.x, job.rows.g, xp)
    cols = rows if job.cols.x is job.rows.x else _expand_pairs(job.cols.x, job.cols.g, xp)
    tables_of_int = (tables.perm, tables.inverse, job.rows.place, job.cols.place)
    perm, inverse, row_of, col_of = (xp.asarray(table, dtype=xp.int32) for table in tables_of_int)

    def compute(row_points: IntArray, col_points: IntArray) -> None:
        arguments = (
            rows,
            cols,
            perm,
            inverse,
            row_of,
            col_of,
            xp.asarray(np.column_stack([row_points, col_points]), dtype=xp.int32),
            job.matrix,
            np.int64(job.matrix.shape[0]),
            np.int32(n_atoms),
            np.int32(training.energies),
            np.int32(n_perms),
            np.int32(chunk),
            np.float64(training.sig),
            np.float64(scale),
        )
        kernel((len(row_points),), (threads,), arguments, shared_mem=chunk * per_perm)

    return compute, _MAX_BLOCKS


def load_cuda(name: str, xp: ModuleType, function: str | None = None) -> Any:
    """Return a compiled CUDA kernel of cuda/`name`.cu, that of the same name unless `function` says which.

    CuPy keeps compiled code in a cache on disk.
    """
    code = (Path(__file__).parent / "cuda" / f"{name}.cu").read_text()
    return xp.RawModule(code=code, backend="nvrtc").get_function(function or name)


def _raise_shared_memory(kernel: Any, needed: int, n_atoms: int, xp: ModuleType) -> None:
    """Let thread blocks have `needed` bytes of shared memory, or raise InsufficientMemoryError."""
    available = int(xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])
    if needed > available:
        raise InsufficientMemoryError(
            f"Assembling the kernel matrix of {n_atoms} atoms needs {needed / 1024:.0f} kB of shared memory a thread "
            f"block, this device has {available / 1024:.0f} kB. Train on the processor: backend='cpu'."
        )
    kernel.max_dynamic_shared_size_bytes = needed


def _expand_pairs(x: Any, g: Any, xp: ModuleType) -> Any:
    """Return x and G as square matrices, (M, 4, N, N): x symmetric, the components of G antisymmetric."""
    n_atoms = n_atoms_of(x.shape[1])
    a, b = (xp.asarray(atom) for atom in np.tril_indices(n_atoms, -1))
    pairs = xp.zeros((len(x), 4, n_atoms, n_atoms))
    for plane, values, sign in [(0, x, 1.0), (1, g[:, :, 0], -1.0), (2, g[:, :, 1], -1.0), (3, g[:, :, 2], -1.0)]:
        square = pairs[:, plane]
        square[:, a, b] = values
        square[:, b, a] = sign * values
    return pairs
