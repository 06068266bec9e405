"""The BLAS and LAPACK of SciPy, without the rest of scipy.linalg.

`_packed` calls them through the function pointers of ``scipy.linalg.cython_blas`` and ``cython_lapack``. Importing
these in the usual way runs the whole of ``scipy.linalg`` first: 0.2 s, a sixth of a small hyper-parameter search, for
Python code that is never used. So the two extension modules are loaded from their files, under their own names. A
later ``import scipy.linalg`` finds them in place; if it was imported before, or they lie elsewhere in some SciPy, the
usual import is used.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from .native import short_waits


def _load(module: str) -> None:
    import scipy

    name = f"scipy.linalg.{module}"
    if name in sys.modules or "scipy.linalg" in sys.modules:
        return
    found = importlib.machinery.PathFinder.find_spec(module, [str(Path(scipy.__file__).parent / "linalg")])
    if found is None or found.origin is None:
        return
    spec = importlib.util.spec_from_file_location(name, found.origin)
    if spec is None or spec.loader is None:
        return
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except ImportError:
        del sys.modules[name]


_load("cython_blas")
_load("cython_lapack")

with short_waits():
    from ._packed import (  # after its BLAS and LAPACK are in place
        add_blocks,
        add_gram,
        add_split_gram,
        cholesky,
        cholesky_dense,
        cholesky_single,
        explained_blocks,
        factor_columns,
        inverse_roots,
        invert_factor,
        isolate,
        multiply_triangles,
        set_residual,
        solve,
        solve_cholesky,
        solve_single,
        solve_triangular_right,
        split_low_rank,
    )

__all__ = [
    "add_blocks",
    "add_gram",
    "add_split_gram",
    "cholesky",
    "cholesky_dense",
    "cholesky_single",
    "explained_blocks",
    "factor_columns",
    "inverse_roots",
    "invert_factor",
    "isolate",
    "multiply_triangles",
    "set_residual",
    "solve",
    "solve_cholesky",
    "solve_single",
    "solve_triangular_right",
    "split_low_rank",
]
