"""Assembly of the kernel matrix on a device; the twin of `fastgdml.kernel`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..descriptor import n_atoms_of
from ..errors import InsufficientMemoryError
from ..group import GroupTables
from ..kernel import Coordinates, Progress

# Shared memory that a thread block may have on any device without asking, in bytes.
_SHARED_MEMORY = 48 * 1024
_MAX_THREADS = 256  # as __launch_bounds__ in assembly.cu
_WARP = 32
_PROGRESS_STEPS = 50


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
    kernel = load_cuda("assembly", xp)
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
