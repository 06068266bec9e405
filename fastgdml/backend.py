"""Choice between the processor and a CUDA device.

CuPy is imported only when a device is asked for: `import fastgdml` stays fast, and works without it.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

from .errors import UsageError

_log = logging.getLogger(__name__)

BACKENDS = ("cpu", "gpu", "auto")
PRECISIONS = ("double", "mixed")


def resolve_backend(backend: str = "auto", use_torch: bool = False) -> str:
    """Return the backend to use, ``'cpu'`` or ``'gpu'``.

    Parameters
    ----------
    backend : {'cpu', 'gpu', 'auto'}
        ``'auto'`` takes the device if CuPy can be imported and sees one, and the processor otherwise.
    use_torch : bool
        sgdml's switch for PyTorch. Warns, and turns ``'cpu'``, the default where it is accepted, into ``'auto'``:
        scripts for sgdml set it on machines without a GPU, too, and must run there.

    Raises
    ------
    UsageError
        If the name is unknown, or ``'gpu'`` is asked for and there is no CuPy or no device.
    """
    if backend not in BACKENDS:
        raise UsageError(f"There is no backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if use_torch and backend == "cpu":
        problem = device_problem()
        if problem is None:
            _log.warning("use_torch: PyTorch is not used. This runs on the GPU with CuPy, as with backend='gpu'.")
        else:
            _log.warning("use_torch: PyTorch is not used, and %s. This runs on the processor.", problem)
        backend = "auto"
    if backend == "cpu":
        return "cpu"
    problem = device_problem()
    if problem is None:
        _log.warning(
            "The GPU backend is experimental: its CUDA code has not been run on a device by its authors yet. Compare "
            "its results with backend='cpu' before you rely on them."
        )
        return "gpu"
    if backend == "auto":
        return "cpu"
    raise _no_device_error(problem)


def array_module(backend: str) -> ModuleType:
    """Return the array module of a backend that `resolve_backend` returned: NumPy or CuPy.

    Raises
    ------
    UsageError
        If there is no CuPy or no device for ``'gpu'``.
    """
    if backend == "cpu":
        return importlib.import_module("numpy")
    problem = device_problem()
    if problem is not None:
        raise _no_device_error(problem)
    return importlib.import_module("cupy")


def require_precision(precision: str) -> str:
    """Return the precision of predictions on a GPU, ``'double'`` or ``'mixed'``.

    Raises
    ------
    UsageError
        If it is another one.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}.")
    return precision


def _no_device_error(problem: str) -> UsageError:
    return UsageError(
        f"backend='gpu' needs CuPy and a CUDA device, but {problem}. Install CuPy with pip install 'fastgdml[gpu]' (or "
        "the cupy-cuda* package of your CUDA version) on a machine with an NVIDIA GPU and driver, or use backend='cpu'."
    )


def device_problem() -> str | None:
    """Return what stands in the way of using a device, or None."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:  # also raised by CuPy itself when a library of CUDA is missing
        # CuPy explains broken installations on many lines.
        return f"importing cupy failed ({' '.join(str(error).split())[:200] or type(error).__name__})"
    try:
        n_devices = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:  # no driver
        return f"cupy {cupy.__version__} found no device ({error})"
    return None if n_devices else f"cupy {cupy.__version__} sees 0 devices"
