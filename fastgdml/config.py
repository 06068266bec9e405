"""What this installation of fastgdml runs with."""

from __future__ import annotations

import platform
from typing import Any

from ._version import __version__


def configuration() -> dict[str, Any]:
    """Return versions, instruction set, threads, OpenMP and BLAS libraries as a dict of plain values."""
    import numpy as np
    import scipy
    from threadpoolctl import threadpool_info

    from . import lapack  # noqa: F401 (loads the BLAS that training uses)
    from .native import _core
    from .threads import resolve_n_threads

    libraries = [
        f"{library['internal_api']} {library['version'] or ''} ({library['num_threads']} threads)".replace("  ", " ")
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]
    return {
        "fastgdml": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "processor": platform.machine(),
        "instruction set": _core.isa_name(),
        "openmp": _core.openmp_version() or "none: serial",
        "threads": resolve_n_threads(),
        "blas": ", ".join(libraries) or "unknown",
    }


def configuration_text() -> str:
    """Return the configuration as lines of text."""
    return "\n".join(f"{name + ':':<17} {value}" for name, value in configuration().items())
