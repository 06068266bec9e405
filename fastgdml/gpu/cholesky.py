"""Cholesky factorisation in place on a device: what `fastgdml.solvers.cholesky` needs of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import InsufficientMemoryError
from ..kernel import Coordinates
from ..lapack import solve_triangular_right
from ..solvers.machine import Factor
from ..training_set import TrainingSet
from ..types import Array, Progress
from .arrays import free_memory, release, to_numpy
from .kernel import assemble_lower

# From this order on, the 32-bit cuSOLVER interface (the one that CuPy has) may overflow in its index arithmetic.
_MAX_POTRF = 46340
# Columns of a step of the blocked factorisation: wide enough for matrix products at full speed.
_BLOCK = 4096
# Columns of workspace that cuSOLVER's factorisation is assumed to take at most.
_WORKSPACE_COLUMNS = 512


def memory_estimate(
    n_train: int, n_atoms: int, n_perms: int = 1, periodic: bool = False, energies: bool = False
) -> int:
    """Return the bytes of device memory that the closed form needs: the square matrix, workspace, tables of pairs."""
    n_kept = max(3 * n_atoms - (3 if periodic else 6), 1) + int(energies)
    n = n_train * n_kept
    pairs = 6 * n_train * n_atoms**2
    blocks = n_train * n_kept**2
    return 8 * (n * (n + _WORKSPACE_COLUMNS) + pairs + blocks) + 8 * n_perms * n_atoms


class SquareFactor(Factor):
    """A Cholesky factor as a full square matrix on a device."""

    def __init__(self, matrix: Any, xp: ModuleType) -> None:
        self._matrix, self._xp = matrix, xp

    def solve(self, rhs: Array) -> Array:
        """Return the solution of one right-hand side (n,) or of several (n, k)."""
        if rhs.ndim == 1:
            return to_numpy(cholesky_solve(self._matrix, rhs, self._xp))
        return np.column_stack([self.solve(column) for column in rhs.T])


def require_memory(training: TrainingSet, rows: Coordinates, blocks: Array, xp: ModuleType) -> None:
    """Raise InsufficientMemoryError if the matrix of `factor` does not fit into the memory of the device."""
    release(xp)
    needed = _needed(training, rows, blocks)
    if needed > free_memory(xp):
        raise _too_large(needed, training, xp)


def factor(
    training: TrainingSet,
    rows: Coordinates,
    blocks: Array,
    progress: Progress | None = None,
    on_assembled: Callable[[], None] | None = None,
    *,
    xp: ModuleType,
) -> SquareFactor | None:
    """Assemble and factor -K_rr + blockdiag(blocks); parameters as of `fastgdml.solvers.machine.Machine.factor`.

    Raises
    ------
    InsufficientMemoryError
        If the memory of the device runs out.
    """
    try:
        matrix = assemble_lower(training, rows, -1.0, progress, xp=xp)
        if on_assembled is not None:
            on_assembled()
        add_blocks(matrix, rows.begin, blocks, xp)
        return SquareFactor(matrix, xp) if cholesky(matrix, xp) else None
    except InsufficientMemoryError:
        raise
    except MemoryError as error:  # CuPy's OutOfMemoryError is one
        raise _too_large(_needed(training, rows, blocks), training, xp) from error


def _needed(training: TrainingSet, rows: Coordinates, blocks: Array) -> int:
    pairs = 6 * training.n_train * training.n_atoms**2
    return 8 * (rows.size * (rows.size + _WORKSPACE_COLUMNS) + pairs + blocks.size + training.tables.perm.size)


def _too_large(needed: int, training: TrainingSet, xp: ModuleType) -> InsufficientMemoryError:
    return InsufficientMemoryError(
        f"The closed form for {training.n_train} points of {training.n_atoms} atoms needs {needed / 2**30:.1f} GB of "
        f"device memory, {free_memory(xp) / 2**30:.1f} GB are free. Use the iterative solver (solver='cg', --solver "
        "cg), fewer training points, free memory of the device, or train on the processor (backend='cpu'), where the "
        "matrix takes half as much."
    )


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


def solve_right(factor: Any, panel: Any, xp: ModuleType) -> None:
    """Replace a panel B (m, k) by B L^-T, with L (k, k) from `cholesky`; both in Fortran order."""
    if xp is np:
        solve_triangular_right(factor, panel, 1)
    else:
        _Blas(factor, xp).divide(0, len(factor), int(panel.data.ptr), len(panel), len(panel))


def _library(libraries: ModuleType, name: str) -> Any:
    # CuPy 13 has no such attributes, and needs none.
    return getattr(libraries, name, None) or importlib.import_module(f"{libraries.__name__}.{name}")


class _Blas:
    """cuBLAS and cuSOLVER on parts of one square Fortran-ordered matrix in device memory."""

    def __init__(self, matrix: Any, xp: ModuleType) -> None:
        # CuPy's public functions copy their arguments; a matrix that fills the device must stay where it is.
        # Attributes of their package: where these are asked for, CuPy finds the libraries in the wheels of NVIDIA, too.
        libraries = importlib.import_module("cupy_backends.cuda.libs")
        self._cublas, self._cusolver = (_library(libraries, name) for name in ("cublas", "cusolver"))
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
        self.divide(k, end, self._at(end, k), self._n - end, self._n)

    def divide(self, k: int, end: int, address: int, n_rows: int, stride: int) -> None:
        """Multiply a panel at an address, columns `stride` apart, by L^-T of the diagonal block of rows k to end."""
        lib = self._cublas
        lib.dtrsm(
            self._blas_handle,
            lib.CUBLAS_SIDE_RIGHT,
            lib.CUBLAS_FILL_MODE_LOWER,
            lib.CUBLAS_OP_T,
            lib.CUBLAS_DIAG_NON_UNIT,
            n_rows,
            end - k,
            self._one.ctypes.data,
            self._at(k, k),
            self._n,
            address,
            stride,
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
