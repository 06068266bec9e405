"""Assembly and Cholesky factorisation of the kernel matrix on a device.

Every function takes the array module `xp`. With NumPy the assembly is done by plain array operations and the
factorisation by LAPACK: what runs on a device is tested without one, down to the CUDA kernel itself.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .descriptor import n_atoms_of
from .errors import InsufficientMemoryError
from .group import GroupTables
from .kernel import Coordinates, Progress

# Shared memory that a thread block may have on any device without asking, in bytes.
_SHARED_MEMORY = 48 * 1024
_MAX_THREADS = 256  # as __launch_bounds__ in assembly.cu
_WARP = 32
_PROGRESS_STEPS = 50
# From this order on, the 32-bit cuSOLVER interface (the one that CuPy has) may overflow in its index arithmetic.
_MAX_POTRF = 46340
# Columns of a step of the blocked factorisation: wide enough for matrix products at full speed.
_BLOCK = 4096


def row_map(rows: Coordinates, n_coord: int) -> np.ndarray:
    """Return the row of each coordinate of each point, (M, n_coord) int32; -1 where it is none."""
    n_points = len(rows.begin) - 1
    point = np.repeat(np.arange(n_points), np.diff(rows.begin))
    row_of = np.full((n_points, n_coord), -1, dtype=np.int32)
    row_of[point, rows.coord] = np.arange(rows.size)
    return row_of


def assemble_lower(
    x: Any,
    g: Any,
    tables: GroupTables,
    sig: float,
    rows: Coordinates,
    scale: float = 1.0,
    progress: Progress | None = None,
    *,
    xp: ModuleType,
) -> Any:
    """Assemble `scale` times the kernel matrix over chosen coordinates, as a full square matrix.

    Parameters
    ----------
    x, g : array, shapes (M, D) and (M, D, 3)
        Descriptors and compressed Jacobians of the training points.
    tables : GroupTables
        The permutation group.
    sig : float
        Length scale.
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
    x, g = xp.asarray(x, dtype=xp.float64), xp.asarray(g, dtype=xp.float64)
    row_of = row_map(rows, 3 * n_atoms_of(x.shape[1]))
    if xp is np:
        return assemble_reference(x, g, tables, sig, row_of, scale, xp=xp)
    return _assemble_on_device(x, g, tables, sig, row_of, rows.size, scale, progress, xp)


def assemble_reference(
    x: Any, g: Any, tables: GroupTables, sig: float, row_of: np.ndarray, scale: float = 1.0, *, xp: ModuleType
) -> Any:
    """Assemble the kernel matrix with dense Jacobians and array operations, for small sizes.

    Parameters as for `assemble_lower`, with ``row_of = row_map(rows, 3 N)``. Returns (n, n), both triangles.
    """
    n_points, n_desc = x.shape
    n_atoms = n_atoms_of(n_desc)
    a, b = (xp.asarray(atom) for atom in np.tril_indices(n_atoms, -1))
    pairs = xp.arange(n_desc)
    J = xp.zeros((n_points, n_desc, n_atoms, 3))
    J[:, pairs, b] = g
    J[:, pairs, a] = -g
    J = J.reshape(n_points, n_desc, 3 * n_atoms)

    K = xp.zeros((n_points, 3 * n_atoms, n_points, 3 * n_atoms))
    for pair in xp.asarray(np.argsort(tables.pair, axis=1)):  # (P_p x)_k = x[pair[k]]
        xj, Jj = x[:, pair], J[:, pair]
        d = x[:, None] - xj[None]
        norm = xp.sqrt(5 * (d**2).sum(axis=2))
        five_b = scale * 25 * xp.exp(-norm / sig) / (3 * sig**4)
        weight = five_b / 5 * sig * (sig + norm)
        u = five_b[:, :, None] * xp.einsum("ikr,ijk->ijr", J, d)
        v = xp.einsum("jks,ijk->ijs", Jj, d)
        K += u.transpose(0, 2, 1)[:, :, :, None] * v[:, None]
        K -= weight[:, None, :, None] * xp.einsum("ikr,jks->irjs", J, Jj)
    kept = xp.asarray(np.flatnonzero(row_of >= 0))
    K = K.reshape(3 * n_atoms * n_points, -1)
    return xp.asfortranarray(K[kept[:, None], kept[None, :]])


def _assemble_on_device(
    x: Any,
    g: Any,
    tables: GroupTables,
    sig: float,
    row_of: np.ndarray,
    n_rows: int,
    scale: float,
    progress: Progress | None,
    xp: ModuleType,
) -> Any:
    n_points, n_desc = x.shape
    n_atoms = n_atoms_of(n_desc)
    n_perms = len(tables.perm)
    kernel = load_kernel(xp)
    per_perm = 8 * (2 + 15 * n_atoms)
    chunk = min(n_perms, max(1, _SHARED_MEMORY // per_perm))
    if chunk * per_perm > _SHARED_MEMORY:
        _raise_shared_memory(kernel, chunk * per_perm, n_atoms, xp)
    threads = min(_MAX_THREADS, -(-(n_atoms**2) // _WARP) * _WARP)

    pairs = _expand_pairs(x, g, xp)
    perm, inverse, row_of = (xp.asarray(table, dtype=xp.int32) for table in (tables.perm, tables.inverse, row_of))
    matrix = xp.empty((n_rows, n_rows), order="F")
    n_blocks = n_points * (n_points + 1) // 2
    step = n_blocks if progress is None else -(-n_blocks // _PROGRESS_STEPS)
    step = min(step, 2**31 - 1)  # the longest grid
    for first in range(0, n_blocks, step):
        stop = min(first + step, n_blocks)
        arguments = (
            pairs,
            perm,
            inverse,
            row_of,
            matrix,
            np.int64(n_rows),
            np.int64(first),
            np.int32(n_atoms),
            np.int32(n_perms),
            np.int32(chunk),
            np.float64(sig),
            np.float64(scale),
        )
        kernel((stop - first,), (threads,), arguments, shared_mem=chunk * per_perm)
        if progress is not None:
            xp.cuda.get_current_stream().synchronize()
            progress(stop, n_blocks)
    return matrix


def load_kernel(xp: ModuleType) -> Any:
    """Return the compiled CUDA kernel of cuda/assembly.cu; CuPy keeps compiled code in a cache on disk."""
    code = (Path(__file__).parent / "cuda" / "assembly.cu").read_text()
    return xp.RawModule(code=code, backend="nvrtc").get_function("assemble")


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


def add_blocks(matrix: Any, begin: np.ndarray, blocks: np.ndarray, xp: ModuleType) -> None:
    """Add square blocks (M, m, m) to the diagonal of a Fortran-ordered matrix.

    Block i starts at row ``begin[i]`` and has ``begin[i + 1] - begin[i]`` rows; the rest of it is padding.
    """
    on_device = xp.asarray(blocks)
    # A loop: one indexed addition to the whole matrix would depend on 64-bit indices inside CuPy.
    for start, end, block in zip(begin[:-1].tolist(), begin[1:].tolist(), on_device, strict=True):
        part = matrix[start:end, start:end]
        part += block[: end - start, : end - start]


def cholesky(matrix: Any, xp: ModuleType, block: int | None = None) -> bool:
    """Factor a matrix in place, L in the lower triangle; return False if it is not positive definite.

    Parameters
    ----------
    matrix : array, shape (n, n)
        In Fortran order; the lower triangle is used.
    xp : module
        numpy or cupy.
    block : int, optional
        Columns of a step of the blocked factorisation, which has no limit on n. By default it is used from the
        order on where cuSOLVER's own routine may overflow.
    """
    n = len(matrix)
    if xp is np:
        lapack = importlib.import_module("scipy.linalg.lapack")
        return bool(lapack.dpotrf(matrix, lower=1, overwrite_a=1, clean=0)[1] == 0)
    if block is None:
        block = n if n <= _MAX_POTRF else _BLOCK
    blas = _Blas(matrix, xp)
    for k in range(0, n, block):
        end = min(k + block, n)
        if not blas.potrf(k, end):
            return False
        if end < n:
            blas.divide_panel(k, end)
        # One block column at a time, so that no index within a call passes 32 bits.
        for col in range(end, n, block):
            blas.update(col, min(col + block, n), k, end)
    return True


def cholesky_solve(matrix: Any, rhs: Any, xp: ModuleType, block: int | None = None) -> Any:
    """Return the solution z (n,) of L L^T z = rhs, with L from `cholesky`."""
    n = len(matrix)
    z = xp.array(rhs, dtype=xp.float64)
    if xp is np:
        lapack = importlib.import_module("scipy.linalg.lapack")
        return lapack.dpotrs(matrix, z, lower=1)[0]
    if block is None:
        block = n if n <= _MAX_POTRF else _BLOCK
    blas = _Blas(matrix, xp)
    starts = range(0, n, block)
    for k in starts:
        blas.solve_forward(z, k, min(k + block, n))
    for k in reversed(starts):
        blas.solve_backward(z, k, min(k + block, n))
    return z


class _Blas:
    """cuBLAS and cuSOLVER on parts of one square Fortran-ordered matrix in device memory."""

    def __init__(self, matrix: Any, xp: ModuleType) -> None:
        # CuPy's public functions copy their arguments; a matrix that fills the device must stay where it is.
        self._cublas = importlib.import_module("cupy_backends.cuda.libs.cublas")
        self._cusolver = importlib.import_module("cupy_backends.cuda.libs.cusolver")
        self._xp = xp
        self._n = len(matrix)
        self._matrix = matrix
        self._blas_handle = xp.cuda.device.get_cublas_handle()
        self._solver_handle = xp.cuda.device.get_cusolver_handle()
        self._one, self._minus_one = np.array(1.0), np.array(-1.0)

    def _at(self, row: int, col: int) -> int:
        return int(self._matrix.data.ptr) + 8 * (col * self._n + row)

    def potrf(self, k: int, end: int) -> bool:
        """Factor the diagonal block of rows k to end; return whether it is positive definite."""
        lower, size, at = self._cublas.CUBLAS_FILL_MODE_LOWER, end - k, self._at(k, k)
        n_work = self._cusolver.dpotrf_bufferSize(self._solver_handle, lower, size, at, self._n)
        work = self._xp.empty(n_work)
        info = self._xp.empty(1, dtype=np.int32)
        self._cusolver.dpotrf(self._solver_handle, lower, size, at, self._n, work.data.ptr, n_work, info.data.ptr)
        status = int(info[0])
        if status < 0:
            raise RuntimeError(f"cusolverDnDpotrf refused argument {-status}")
        return status == 0

    def divide_panel(self, k: int, end: int) -> None:
        """Multiply the rows below the factored diagonal block L by L^-T."""
        lib = self._cublas
        lib.dtrsm(
            self._blas_handle,
            lib.CUBLAS_SIDE_RIGHT,
            lib.CUBLAS_FILL_MODE_LOWER,
            lib.CUBLAS_OP_T,
            lib.CUBLAS_DIAG_NON_UNIT,
            self._n - end,
            end - k,
            self._one.ctypes.data,
            self._at(k, k),
            self._n,
            self._at(end, k),
            self._n,
        )

    def update(self, col: int, col_end: int, k: int, end: int) -> None:
        """Subtract from columns col to col_end, from the diagonal down, what the panel k to end explains."""
        lib = self._cublas
        lib.dgemm(
            self._blas_handle,
            lib.CUBLAS_OP_N,
            lib.CUBLAS_OP_T,
            self._n - col,
            col_end - col,
            end - k,
            self._minus_one.ctypes.data,
            self._at(col, k),
            self._n,
            self._at(col, k),
            self._n,
            self._one.ctypes.data,
            self._at(col, col),
            self._n,
        )

    def solve_forward(self, z: Any, k: int, end: int) -> None:
        """Solve with rows k to end of L, and subtract their part from the rows below."""
        self._solve_triangle(z, k, end, self._cublas.CUBLAS_OP_N)
        self._multiply_below(z, k, end, self._cublas.CUBLAS_OP_N)

    def solve_backward(self, z: Any, k: int, end: int) -> None:
        """Subtract the part of the rows below from rows k to end, and solve with L^T of these."""
        self._multiply_below(z, k, end, self._cublas.CUBLAS_OP_T)
        self._solve_triangle(z, k, end, self._cublas.CUBLAS_OP_T)

    def _solve_triangle(self, z: Any, k: int, end: int, operation: int) -> None:
        lib = self._cublas
        lib.dtrsm(
            self._blas_handle,
            lib.CUBLAS_SIDE_LEFT,
            lib.CUBLAS_FILL_MODE_LOWER,
            operation,
            lib.CUBLAS_DIAG_NON_UNIT,
            end - k,
            1,
            self._one.ctypes.data,
            self._at(k, k),
            self._n,
            int(z.data.ptr) + 8 * k,
            self._n,
        )

    def _multiply_below(self, z: Any, k: int, end: int, operation: int) -> None:
        if end == self._n:
            return
        lib = self._cublas
        upper, below = int(z.data.ptr) + 8 * k, int(z.data.ptr) + 8 * end
        source, target = (upper, below) if operation == lib.CUBLAS_OP_N else (below, upper)
        lib.dgemv(
            self._blas_handle,
            operation,
            self._n - end,
            end - k,
            self._minus_one.ctypes.data,
            self._at(end, k),
            self._n,
            source,
            1,
            self._one.ctypes.data,
            target,
            1,
        )
