"""The LAPACK of SciPy, without the rest of scipy.linalg.

`_packed` calls LAPACK through the function pointers of ``scipy.linalg.cython_lapack``. Importing that module in the
usual way runs the whole of ``scipy.linalg`` first: 0.2 s, a sixth of a small hyper-parameter search, for Python code
that is never used. So the one extension module is loaded from its file, under its own name. A later
``import scipy.linalg`` finds it in place; if it was imported before, or lies elsewhere in some SciPy, the usual
import is used.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_NAME = "scipy.linalg.cython_lapack"


def _load_cython_lapack() -> None:
    import scipy

    if _NAME in sys.modules or "scipy.linalg" in sys.modules:
        return
    found = importlib.machinery.PathFinder.find_spec("cython_lapack", [str(Path(scipy.__file__).parent / "linalg")])
    if found is None or found.origin is None:
        return
    spec = importlib.util.spec_from_file_location(_NAME, found.origin)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except ImportError:
        del sys.modules[_NAME]


_load_cython_lapack()

from ._packed import add_blocks, cholesky, solve  # noqa: E402 (after its LAPACK is in place)

__all__ = ["add_blocks", "cholesky", "solve"]
